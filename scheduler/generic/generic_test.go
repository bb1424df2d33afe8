package generic

import (
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func TestWhatANodeHas(t *testing.T) {
	for name, tc := range map[string]struct {
		has   []*taskpb.GenericResource
		wrong string
	}{
		"both ways":     {[]*taskpb.GenericResource{{Kind: "gpu", Names: []string{"GPU-1", "GPU-2"}}, {Kind: "seat", Count: 3}}, ""},
		"twice":         {[]*taskpb.GenericResource{{Kind: "gpu", Count: 1}, {Kind: "GPU", Count: 1}}, "given twice"},
		"name twice":    {[]*taskpb.GenericResource{{Kind: "gpu", Names: []string{"a", "a"}}}, "given twice"},
		"two names":     {[]*taskpb.GenericResource{{Kind: "gpu", Names: []string{"a,b"}}}, "cannot be a name"},
		"both":          {[]*taskpb.GenericResource{{Kind: "gpu", Count: 1, Names: []string{"a"}}}, "keep one"},
		"none":          {[]*taskpb.GenericResource{{Kind: "gpu"}}, "or names"},
		"more than any": {make([]*taskpb.GenericResource, MaxKinds+1), "at most"},
	} {
		if err := CheckOwned(tc.has); (err == nil) != (tc.wrong == "") || err != nil && !strings.Contains(err.Error(), tc.wrong) {
			t.Errorf("%s: %v, want %q", name, err, tc.wrong)
		}
	}
	if env := Env([]*taskpb.GenericResource{{Kind: "gpu", Names: []string{"G1", "G2"}}, {Kind: "seat", Count: 3}}); strings.Join(env, " ") != "DOCKER_RESOURCE_GPU=G1,G2 DOCKER_RESOURCE_SEAT=3" {
		t.Errorf("a container is told %q", env)
	}
}
