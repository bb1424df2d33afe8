package spec_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func TestAdmitted(t *testing.T) {
	one, other := "sha256:"+strings.Repeat("1", 64), "sha256:"+strings.Repeat("2", 64)
	given := func(image string) *schedulerpb.ServiceSpec {
		return &schedulerpb.ServiceSpec{Name: "web", Task: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: image}}}
	}
	if _, err := spec.Admit(given("")); err == nil {
		t.Error("a spec without an image is admitted")
	}
	for _, c := range []struct {
		image, digest string
		ok            bool
	}{
		{"app:1", one, true},
		{"app:1", "sha256:1", false},
		{"app:1", "", true}, // nothing to pin
		{"app@" + one, one, true},
		{"registry.example:5000/app:1@" + one, one, true},
		{"app@" + one, other, false},
	} {
		in := given(c.image)
		a, err := spec.Admit(in)
		if err != nil {
			t.Fatal(err)
		}
		before := proto.CloneOf(a.Spec())
		p, err := a.Pin(c.digest, nil)
		if (err == nil) != c.ok {
			t.Errorf("%s pinned to %q: %v", c.image, c.digest, err)
		}
		if err != nil {
			continue
		}
		if got := p.Spec().GetTask().GetContainer().GetDigest(); got != c.digest {
			t.Errorf("%s pinned to %q has %q", c.image, c.digest, got)
		}
		if err := spec.Validate(p.Spec()); err != nil {
			t.Errorf("%s pinned to %q is not valid any more: %v", c.image, c.digest, err)
		}
		if !proto.Equal(a.Spec(), before) || !proto.Equal(in, given(c.image)) {
			t.Errorf("%s: pinning changed what it was made from", c.image)
		}
	}
}
