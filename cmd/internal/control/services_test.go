package control_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func TestServices(t *testing.T) {
	w := newWorld(t)
	id := w.create(w.spec("web"))
	if v := w.service("web"); v.GetService().GetSpec().GetTask().GetContainer().GetDigest() != digestA || v.GetWanted() != 2 {
		t.Errorf("stored %v", v)
	}
	_, err := w.api.CreateService(t.Context(), &controlpb.CreateServiceRequest{Spec: w.spec("web")})
	wantReason(t, err, apierr.ReasonExists, `"web" exists already`)
	_, err = w.api.CreateService(t.Context(), &controlpb.CreateServiceRequest{})
	wantReason(t, err, apierr.ReasonInvalid, "no service in it")

	// An image that did not change keeps its digest, whatever the registry says.
	w.registry[ref] = digestB
	update := func(version uint64, change func(*schedulerpb.ServiceSpec)) error {
		sp := w.spec("web")
		change(sp)
		_, err := w.api.UpdateService(t.Context(), &controlpb.UpdateServiceRequest{Service: id, Version: version, Spec: sp})
		return err
	}
	version := w.service(id).GetService().GetMeta().GetVersion()
	if err := update(version, func(sp *schedulerpb.ServiceSpec) { sp.GetReplicated().Replicas = 3 }); err != nil {
		t.Fatal(err)
	}
	if v := w.service(id); v.GetService().GetSpec().GetTask().GetContainer().GetDigest() != digestA || v.GetWanted() != 3 {
		t.Errorf("after scaling: %v", v)
	}
	wantReason(t, update(version, func(sp *schedulerpb.ServiceSpec) { sp.GetReplicated().Replicas = 4 }), apierr.ReasonConflict, "changed by somebody else")
	version = w.service(id).GetService().GetMeta().GetVersion()
	wantReason(t, update(version, func(sp *schedulerpb.ServiceSpec) { sp.Name = "other" }), apierr.ReasonInvalid, "cannot be renamed")
	wantReason(t, update(version, func(sp *schedulerpb.ServiceSpec) {
		sp.Mode = &schedulerpb.ServiceSpec_Global{Global: &schedulerpb.Global{}}
	}), apierr.ReasonInvalid, "mode of a service")
	if err := update(version, func(sp *schedulerpb.ServiceSpec) { sp.Task.Force++ }); err != nil {
		t.Fatal(err)
	}
	if got := w.service(id).GetService().GetSpec().GetTask().GetContainer().GetDigest(); got != digestB {
		t.Errorf("forced, the digest is %s", got)
	}

	if _, err := w.api.RemoveService(t.Context(), &controlpb.RemoveServiceRequest{Service: "web"}); err != nil {
		t.Fatal(err)
	}
	_, err = w.api.RemoveService(t.Context(), &controlpb.RemoveServiceRequest{Service: "web"})
	wantReason(t, err, apierr.ReasonNotFound, `no service "web"`)
	wantReason(t, update(version, func(*schedulerpb.ServiceSpec) {}), apierr.ReasonNotFound, "no service")
}

// What the command line would never send is refused as well.
func TestSpecsPastTheCommandLine(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*schedulerpb.ServiceSpec){
		"name":     func(sp *schedulerpb.ServiceSpec) { sp.Name = "../../etc" },
		"long":     func(sp *schedulerpb.ServiceSpec) { sp.Name = strings.Repeat("a", 1000) },
		"replicas": func(sp *schedulerpb.ServiceSpec) { sp.GetReplicated().Replicas = 1 << 63 },
		"env":      func(sp *schedulerpb.ServiceSpec) { sp.Task.Container.Env = []string{"no equals"} },
		"much env": func(sp *schedulerpb.ServiceSpec) {
			sp.Task.Container.Env = []string{"A=" + strings.Repeat("x", 1<<20)}
		},
		"label": func(sp *schedulerpb.ServiceSpec) { sp.Labels = map[string]string{"a": strings.Repeat("x", 1<<16)} },
		"mount": func(sp *schedulerpb.ServiceSpec) {
			sp.Task.Container.Mounts = []*taskpb.Mount{{Type: taskpb.Mount_TYPE_BIND, Source: "/a/../etc", Target: "/x"}}
		},
		"port": func(sp *schedulerpb.ServiceSpec) {
			sp.Task.Ports = []*taskpb.Port{{Published: 70000, Target: 80, Mode: taskpb.Port_MODE_HOST}}
		},
		"ingress": func(sp *schedulerpb.ServiceSpec) {
			sp.Task.Ports = []*taskpb.Port{{Published: 2377, Target: 80, Mode: taskpb.Port_MODE_INGRESS}}
		},
		"constraint": func(sp *schedulerpb.ServiceSpec) { sp.Task.Constraints = []string{"node.secret==1"} },
		"memory":     func(sp *schedulerpb.ServiceSpec) { sp.Task.Limits = &taskpb.Resources{MemoryBytes: -1} },
		"unknown": func(sp *schedulerpb.ServiceSpec) {
			sp.Task.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 999, protowire.VarintType), 1))
		},
		"nothing": func(sp *schedulerpb.ServiceSpec) { sp.Task = nil },
	} {
		sp := w.spec("web")
		change(sp)
		_, err := w.api.CreateService(t.Context(), &controlpb.CreateServiceRequest{Spec: sp})
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		wantReason(t, err, apierr.ReasonInvalid, "")
	}
}

// TestImages: who is believed about what an image is.
func TestImages(t *testing.T) {
	for name, tc := range map[string]struct {
		manager, worker, registry string
		want, warn, refusal       string
	}{
		"registry":                  {registry: digestA, want: digestA},
		"manager before registry":   {manager: digestB, registry: digestA, want: digestB},
		"registry before worker":    {worker: digestB, registry: digestA, want: digestA, warn: "not used"},
		"manager before worker":     {manager: digestA, worker: digestB, want: digestA, warn: "not used"},
		"only a worker":             {worker: digestB, want: digestB, warn: "on the word of workers only (worker-1)"},
		"nobody":                    {refusal: "is not in its registry: push it, or correct the name"},
		"manager, worker and agree": {manager: digestA, worker: digestA, want: digestA},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.registry[ref] = tc.registry
			if tc.manager != "" {
				w.load(w.manager, tc.manager)
			}
			if tc.worker != "" {
				w.load(w.worker, tc.worker)
			}
			r, err := w.api.CreateService(t.Context(), &controlpb.CreateServiceRequest{Spec: w.spec("web")})
			if tc.refusal != "" {
				wantReason(t, err, apierr.ReasonState, tc.refusal)
				if strings.Count(err.Error(), ref) != 1 || strings.Contains(err.Error(), "check the name") {
					t.Errorf("the refusal repeats itself: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := w.service("web").GetService().GetSpec().GetTask().GetContainer().GetDigest(); got != tc.want {
				t.Errorf("pinned %s, want %s", got, tc.want)
			}
			if warned := strings.Join(r.GetWarnings(), "; "); (tc.warn == "") != (warned == "") || !strings.Contains(warned, tc.warn) {
				t.Errorf("warnings %q, want %q", warned, tc.warn)
			}
		})
	}
	w := newWorld(t)
	other := w.addNode("manager-2", true)
	w.load(w.manager, digestA)
	w.load(other, digestB)
	_, err := w.api.CreateService(t.Context(), &controlpb.CreateServiceRequest{Spec: w.spec("web")})
	wantReason(t, err, apierr.ReasonState, "not the same on manager-1 and on manager-2")
	sp := w.spec("pinned")
	sp.Task.Container.Image = ref + "@" + digestB
	if id := w.create(sp); w.service(id).GetService().GetSpec().GetTask().GetContainer().GetDigest() != digestB {
		t.Error("the digest in the reference does not count")
	}
}

// A global service wants a task on every node that may have one, before the
// first is made, and keeps that of a paused node.
func TestWantedOfGlobalServices(t *testing.T) {
	w := newWorld(t)
	sp := w.spec("edge")
	sp.Mode = &schedulerpb.ServiceSpec_Global{Global: &schedulerpb.Global{}}
	id := w.create(sp)
	want := func(n uint64, when string) {
		t.Helper()
		if got := w.service(id).GetWanted(); got != n {
			t.Errorf("%s: %d wanted, want %d", when, got, n)
		}
	}
	want(1, "at first") // the manager is drained: there is a worker
	second := w.addNode("worker-2", false)
	want(2, "with a second worker")
	schedulertest.Run(t, w.store)
	schedulertest.Agents(t, w.store)
	schedulertest.Await(t, w.store, schedulertest.Running(id, 2))
	pause := func(a schedulerpb.Availability) {
		t.Helper()
		if _, err := w.api.UpdateNode(t.Context(), &controlpb.UpdateNodeRequest{Node: second, Availability: a}); err != nil {
			t.Fatal(err)
		}
	}
	pause(schedstore.Pause)
	want(2, "with one paused")
	pause(schedstore.Drain)
	schedulertest.Await(t, w.store, schedulertest.Running(id, 1))
	want(1, "with one drained")
	r, err := w.api.ListTasks(t.Context(), &controlpb.ListTasksRequest{Services: []string{"edge"}, Node: "worker-1"})
	if err != nil || len(r.GetTasks()) != 1 || r.GetTasks()[0].GetNodeName() != "worker-1" || r.GetTasks()[0].GetImage() != ref {
		t.Errorf("%v %v", r, err)
	}
}
