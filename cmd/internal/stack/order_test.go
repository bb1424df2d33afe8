package stack

import (
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// TestOrder: services come after what they depend on, each once, also in a circle.
func TestOrder(t *testing.T) {
	for given, want := range map[string]string{
		"a b c":              "a b c",
		"a>b b>c c":          "c b a",
		"a>c b c>b,gone d":   "b c a d",
		"a>b b>a c":          "b a c",
		"web>db,mq db mq>db": "db mq web",
	} {
		var all []*schedulerpb.ServiceSpec
		for _, text := range strings.Fields(given) {
			name, on, _ := strings.Cut(text, ">")
			s := &schedulerpb.ServiceSpec{Name: name, Task: &taskpb.TaskSpec{}}
			for o := range strings.SplitSeq(on, ",") {
				if o != "" {
					s.Task.DependsOn = append(s.Task.DependsOn, &taskpb.Dependency{Service: o})
				}
			}
			all = append(all, s)
		}
		var got []string
		for _, s := range inOrder(all) {
			got = append(got, s.GetName())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %v, want %s", given, got, want)
		}
	}
}
