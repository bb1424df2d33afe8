package netd

import (
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"testing"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// TestWhoseSocketsAreHanded: named has sockets of tasks of this node that are on
// some network, as the declarations that are in force say, in whatever steps.
func TestWhoseSocketsAreHanded(t *testing.T) {
	h := newHanding(&Node{runDir: t.TempDir(), log: slog.New(slog.NewTextHandler(io.Discard, nil))}, filepath.Join(t.TempDir(), "hand.sock"))
	local := func(task string) *netdpb.OverlayEndpoint {
		return &netdpb.OverlayEndpoint{TaskId: task, Netns: "ns-" + task}
	}
	remote := func(task string) *netdpb.OverlayEndpoint {
		return &netdpb.OverlayEndpoint{TaskId: task, Node: "198.18.0.2"}
	}
	network := func(id string, changes bool, es ...*netdpb.OverlayEndpoint) *netdpb.OverlayNetwork {
		return &netdpb.OverlayNetwork{Id: id, Changes: changes, Endpoints: es}
	}
	without := func(id string, tasks ...string) *netdpb.OverlayNetwork {
		return &netdpb.OverlayNetwork{Id: id, Changes: true, RemovedEndpoints: tasks}
	}
	for _, step := range []struct {
		what string
		req  *netdpb.OverlayRequest
		want []string
	}{
		{"a difference on what is not known is all there is", &netdpb.OverlayRequest{Base: 7, Networks: []*netdpb.OverlayNetwork{network("a", true, local("1"))}}, []string{"1"}},
		{"the whole takes the place of everything", &netdpb.OverlayRequest{Networks: []*netdpb.OverlayNetwork{network("a", false, local("2"), remote("9")), network("b", false, local("2"), local("3"))},
			Sandboxes: []*netdpb.OverlaySandbox{{TaskId: "cni", Netns: "ns-cni"}}}, []string{"2", "3", "cni"}},
		{"one more, of another node one", &netdpb.OverlayRequest{Base: 1, Networks: []*netdpb.OverlayNetwork{network("a", true, local("4"), remote("8"))}}, []string{"2", "3", "4", "cni"}},
		{"off one of two networks", &netdpb.OverlayRequest{Base: 2, Networks: []*netdpb.OverlayNetwork{without("a", "2")}}, []string{"2", "3", "4", "cni"}},
		{"off the other one", &netdpb.OverlayRequest{Base: 3, Networks: []*netdpb.OverlayNetwork{without("b", "2")}}, []string{"3", "4", "cni"}},
		{"a network is said anew", &netdpb.OverlayRequest{Base: 4, Networks: []*netdpb.OverlayNetwork{network("a", false, local("5"))}}, []string{"3", "5", "cni"}},
		{"a network goes", &netdpb.OverlayRequest{Base: 5, Removed: []string{"b"}}, []string{"5", "cni"}},
		{"sandboxes without a network of netd's change", &netdpb.OverlayRequest{Base: 6, SandboxesChanged: true}, []string{"5"}},
		{"nothing is left", &netdpb.OverlayRequest{}, nil},
	} {
		h.declared(step.req)
		got, want := h.sandboxes(), map[string]string{}
		for _, task := range step.want {
			want[task] = "ns-" + task
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", step.what, got, want)
		}
	}
}
