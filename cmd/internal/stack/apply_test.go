package stack_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/cli/clitest"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/stack"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// node is a fake manager and a connection to it.
func node(t *testing.T) *apiclient.Client {
	t.Helper()
	n, err := clitest.New("active")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "rdt") // short: socket paths are bounded
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	stop, err := n.Serve(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	c, err := apiclient.Dial(t.Context(), filepath.Join(dir, "api.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func service(name, image string) *schedulerpb.ServiceSpec {
	return &schedulerpb.ServiceSpec{Name: name, Labels: map[string]string{stack.Label: "shop"}, Task: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: image}}}
}

// plan is what two services of that image need.
func plan(t *testing.T, c *apiclient.Client, image string) *stack.Plan {
	t.Helper()
	want := &stack.Stack{Name: "shop", Services: []*schedulerpb.ServiceSpec{service("shop_api", image), service("shop_web", image)}}
	have, err := stack.Read(t.Context(), c, want)
	if err != nil {
		t.Fatal(err)
	}
	p, err := stack.Make(want, have, stack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestConcurrentChange: what somebody else changed after the plan was made stays as they
// left it, and is told; the rest is done, and can be taken back.
func TestConcurrentChange(t *testing.T) {
	c := node(t)
	var done []string
	ap := &stack.Applier{API: c, Done: func(s stack.Step, _ []string) { done = append(done, string(s.Action)+" "+s.Name) }}
	if _, err := ap.Apply(t.Context(), plan(t, c, "web:1")); err != nil {
		t.Fatal(err)
	}
	p := plan(t, c, "web:2")
	l, err := c.ListServices(t.Context(), &controlpb.ListServicesRequest{Services: []string{"shop_api"}})
	if err != nil {
		t.Fatal(err)
	}
	theirs := l.GetServices()[0].GetService()
	other := proto.CloneOf(theirs.GetSpec())
	other.Task.Container.Args = []string{"theirs"}
	if _, err := c.UpdateService(t.Context(), &controlpb.UpdateServiceRequest{Service: theirs.GetId(), Version: theirs.GetMeta().GetVersion(), Spec: other}); err != nil {
		t.Fatal(err)
	}
	done = nil
	applied, err := ap.Apply(t.Context(), p)
	if err == nil || !strings.Contains(err.Error(), "service shop_api: ") || !strings.Contains(err.Error(), "somebody else changed it") || apierr.ReasonOf(err) != apierr.ReasonConflict {
		t.Errorf("%v", err)
	}
	if len(done) != 1 || done[0] != "update shop_web" || len(applied.Services) != 1 || !applied.Services[0].Updated() {
		t.Errorf("done is %v", done)
	}
	if l, err = c.ListServices(t.Context(), &controlpb.ListServicesRequest{Services: []string{"shop_api"}}); err != nil || l.GetServices()[0].GetService().GetSpec().GetTask().GetContainer().GetImage() != "web:1" {
		t.Errorf("it is %v, %v", l, err)
	}
}

// TestInterrupted: a deployment that is interrupted says so, and leaves what it did for
// the next.
func TestInterrupted(t *testing.T) {
	c := node(t)
	ctx, cancel := context.WithCancel(t.Context())
	ap := &stack.Applier{API: c, Done: func(stack.Step, []string) { cancel() }}
	applied, err := ap.Apply(ctx, plan(t, c, "web:1"))
	if err == nil || !errors.Is(err, &apierr.Error{Reason: apierr.ReasonCanceled}) || len(applied.Services) != 1 {
		t.Errorf("%v, %v", applied, err)
	}
	var next []string
	ap.Done = func(s stack.Step, _ []string) { next = append(next, string(s.Action)+" "+s.Name) }
	p := plan(t, c, "web:1")
	if _, err := ap.Apply(t.Context(), p); err != nil || next[len(next)-1] != "create shop_web" {
		t.Errorf("%v, %v", next, err)
	}
}
