package netview

import (
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// perItem is what an element of a list costs besides itself.
const perItem = 8

// splitter cuts a set into messages of bounded size.
type splitter struct {
	out  []*schedulerpb.NetworkSet
	size int
}

// room gives the message that the next n bytes go into, and whether it is a new
// one.
func (s *splitter) room(n int) (m *schedulerpb.NetworkSet, fresh bool) {
	m = s.out[len(s.out)-1]
	if s.size += n + perItem; s.size <= maxBytes || s.size == n+perItem {
		return m, false
	}
	m.More = true
	m = &schedulerpb.NetworkSet{}
	s.out, s.size = append(s.out, m), n+perItem
	return m, true
}

// split cuts a set; a small one is returned as it is.
func split(set *schedulerpb.NetworkSet) []*schedulerpb.NetworkSet {
	if proto.Size(set) <= maxBytes {
		return []*schedulerpb.NetworkSet{set}
	}
	s := &splitter{out: []*schedulerpb.NetworkSet{{Complete: set.Complete, Self: set.Self}}}
	s.strings(set.Remove, func(m *schedulerpb.NetworkSet) *[]string { return &m.Remove })
	s.strings(set.RemovePeers, func(m *schedulerpb.NetworkSet) *[]string { return &m.RemovePeers })
	s.strings(set.RemovePools, func(m *schedulerpb.NetworkSet) *[]string { return &m.RemovePools })
	s.strings(set.Pools, func(m *schedulerpb.NetworkSet) *[]string { return &m.Pools })
	s.strings(set.RemoveNodes, func(m *schedulerpb.NetworkSet) *[]string { return &m.RemoveNodes })
	s.strings(set.Nodes, func(m *schedulerpb.NetworkSet) *[]string { return &m.Nodes })
	s.strings(set.RemovePublished, func(m *schedulerpb.NetworkSet) *[]string { return &m.RemovePublished })
	s.strings(set.Published, func(m *schedulerpb.NetworkSet) *[]string { return &m.Published })
	for _, p := range set.Peers {
		m, _ := s.room(proto.Size(p))
		m.Peers = append(m.Peers, p)
	}
	for _, v := range set.Update {
		s.network(v)
	}
	return s.out
}

// strings puts in a list, of which each message has a part.
func (s *splitter) strings(list []string, of func(*schedulerpb.NetworkSet) *[]string) {
	for _, x := range list {
		m, _ := s.room(len(x))
		*of(m) = append(*of(m), x)
	}
}

// network puts in one network, the lists of which may go on in later messages.
func (s *splitter) network(v *schedulerpb.NetworkView) {
	if n := proto.Size(v); n <= maxBytes/2 {
		m, _ := s.room(n)
		m.Update = append(m.Update, v)
		return
	}
	head := Bare(v)
	head.Policy, head.PolicyChanged = v.Policy, v.PolicyChanged
	headSize := proto.Size(Bare(v))
	m, _ := s.room(proto.Size(head))
	m.Update = append(m.Update, head)
	at := head
	room := func(n int) *schedulerpb.NetworkView {
		if m, fresh := s.room(n); fresh {
			at = Bare(v)
			at.Changes = true
			m.Update = append(m.Update, at)
			s.size += headSize
		}
		return at
	}
	for _, x := range v.Services {
		w := room(proto.Size(x))
		w.Services = append(w.Services, x)
	}
	for _, x := range v.Endpoints {
		w := room(proto.Size(x))
		w.Endpoints = append(w.Endpoints, x)
	}
	for _, id := range v.RemoveEndpoints {
		w := room(len(id))
		w.RemoveEndpoints = append(w.RemoveEndpoints, id)
	}
	for _, id := range v.RemoveServices {
		w := room(len(id))
		w.RemoveServices = append(w.RemoveServices, id)
	}
	for _, id := range v.Entries {
		w := room(len(id))
		w.Entries = append(w.Entries, id)
	}
	for _, id := range v.RemoveEntries {
		w := room(len(id))
		w.RemoveEntries = append(w.RemoveEntries, id)
	}
}

// Bare is the view without its lists.
func Bare(v *schedulerpb.NetworkView) *schedulerpb.NetworkView {
	return &schedulerpb.NetworkView{Id: v.Id, Changes: v.Changes, Name: v.Name, Driver: v.Driver, Kind: v.Kind, Vni: v.Vni,
		Subnets: v.Subnets, Internal: v.Internal, DefaultDeny: v.DefaultDeny, Options: v.Options, ServiceId: v.ServiceId, Ports: v.Ports}
}
