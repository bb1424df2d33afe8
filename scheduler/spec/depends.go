package spec

import (
	"fmt"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// StackLabel is the label that says which stack a service is part of.
const StackLabel = "com.docker.stack.namespace"

func normalizeDependencies(list []*taskpb.Dependency) {
	for _, d := range list {
		if d != nil && d.Condition == taskpb.Dependency_CONDITION_UNSPECIFIED {
			d.Condition = taskpb.Dependency_CONDITION_STARTED
		}
	}
}

// validateDependencies checks what can be told without the other services.
func validateDependencies(s *schedulerpb.ServiceSpec) error {
	list := s.GetTask().GetDependsOn()
	if n := len(list); n > MaxDependencies {
		return fmt.Errorf("it depends on %d services: at most %d are allowed", n, MaxDependencies)
	}
	seen := map[string]bool{}
	for _, d := range list {
		name := d.GetService()
		if err := ident.CheckOwnName("service", name); err != nil {
			return fmt.Errorf("what it depends on: %w", err)
		}
		switch {
		case name == s.GetName():
			return fmt.Errorf("service %s depends on itself: leave that out", name)
		case seen[name]:
			return fmt.Errorf("that it depends on service %s is given twice: keep one", name)
		}
		seen[name] = true
		switch d.GetCondition() {
		case taskpb.Dependency_CONDITION_STARTED, taskpb.Dependency_CONDITION_HEALTHY, taskpb.Dependency_CONDITION_COMPLETED:
		default:
			return fmt.Errorf("the condition of service %s, which it depends on, is unknown: use started, healthy or completed", name)
		}
	}
	return nil
}
