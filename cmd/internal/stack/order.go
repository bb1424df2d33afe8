package stack

import "github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"

// inOrder are services, each after those of them that it depends on, and otherwise as
// they were. So none closes a circle with what another one is about to be changed from.
// A circle among themselves is left to the managers, who refuse it.
func inOrder(all []*schedulerpb.ServiceSpec) []*schedulerpb.ServiceSpec {
	named := map[string]*schedulerpb.ServiceSpec{}
	for _, s := range all {
		named[s.GetName()] = s
	}
	out := make([]*schedulerpb.ServiceSpec, 0, len(all))
	var add func(*schedulerpb.ServiceSpec)
	add = func(s *schedulerpb.ServiceSpec) {
		if named[s.GetName()] == nil {
			return // of another stack, or added
		}
		delete(named, s.GetName())
		for _, d := range s.GetTask().GetDependsOn() {
			if on := named[d.GetService()]; on != nil {
				add(on)
			}
		}
		out = append(out, s)
	}
	for _, s := range all {
		add(s)
	}
	return out
}
