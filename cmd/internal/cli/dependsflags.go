package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// dependsFlags say which services a service's tasks wait for. On update there are -add
// and -rm.
type dependsFlags struct {
	on dependencyList
	rm []string
}

// add defines the flags; update: those of service update.
func (t *dependsFlags) add(f *pflag.FlagSet, update bool) {
	const form = "SERVICE[:started|healthy|completed][,optional]: "
	if !update {
		f.Var(&t.on, "depends-on", form+"its tasks wait until that one has come so far (default started)")
		return
	}
	f.Var(&t.on, "depends-on-add", form+"have its tasks wait for that one, or for something else of it")
	f.StringArrayVar(&t.rm, "depends-on-rm", nil, "have its tasks wait for this service no more")
}

func (t *dependsFlags) apply(spec *taskpb.TaskSpec) {
	spec.DependsOn = changed(spec.DependsOn, t.on, t.rm, func(d *taskpb.Dependency) []string { return []string{d.GetService()} })
}

// dependencyList is a repeatable flag, checked as it is read.
type dependencyList []*taskpb.Dependency

func (l *dependencyList) Type() string   { return "service" }
func (l *dependencyList) String() string { return "" }
func (l *dependencyList) Set(s string) error {
	d, err := parseDependency(s)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(*l, func(o *taskpb.Dependency) bool { return o.GetService() == d.GetService() }) {
		return fmt.Errorf("service %s is given twice", d.GetService())
	}
	*l = append(*l, d)
	return nil
}

var dependencyConditions = map[string]taskpb.Dependency_Condition{
	"started": taskpb.Dependency_CONDITION_STARTED, "healthy": taskpb.Dependency_CONDITION_HEALTHY, "completed": taskpb.Dependency_CONDITION_COMPLETED,
}

// parseDependency reads db:healthy,optional.
func parseDependency(s string) (*taskpb.Dependency, error) {
	text, option, more := strings.Cut(s, ",")
	name, word, conditioned := strings.Cut(text, ":")
	if err := ident.CheckName(name); err != nil {
		return nil, err
	}
	d := &taskpb.Dependency{Service: name, Condition: taskpb.Dependency_CONDITION_STARTED, Optional: more}
	if conditioned {
		var known bool
		if d.Condition, known = dependencyConditions[word]; !known {
			return nil, fmt.Errorf("there is no condition %q: use started, healthy or completed", word)
		}
	}
	if more && option != "optional" {
		return nil, fmt.Errorf("there is no option %q: write optional, or leave it out", option)
	}
	return d, nil
}

// dependencyString is what parseDependency reads.
func dependencyString(d *taskpb.Dependency) string {
	s := d.GetService() + ":" + enumName(max(d.GetCondition(), taskpb.Dependency_CONDITION_STARTED), "CONDITION_")
	if d.GetOptional() {
		s += ",optional"
	}
	return s
}

func dependencies(list []*taskpb.Dependency) string {
	var out []string
	for _, d := range list {
		out = append(out, dependencyString(d))
	}
	return strings.Join(out, " ")
}
