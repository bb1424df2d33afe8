package overlay

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// told keeps what netd is told.
type told struct {
	mu  sync.Mutex
	all []*netdpb.OverlayRequest
	// ingress is what it is told of published ports.
	ingress []*netdpb.IngressRequest
}

func (n *told) Call(_ context.Context, req, resp proto.Message) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r := req.(*netdpb.Request).GetOverlay(); r != nil {
		n.all = append(n.all, r)
	}
	if r := req.(*netdpb.Request).GetIngress(); r != nil {
		n.ingress = append(n.ingress, r)
		resp.(*netdpb.Response).Result = &netdpb.Response_Ingress{Ingress: &netdpb.IngressResponse{}}
		return nil
	}
	resp.(*netdpb.Response).Result = &netdpb.Response_Overlay{Overlay: &netdpb.OverlayResponse{}}
	return nil
}

type away struct{}

func (away) Call(context.Context, proto.Message, proto.Message) error { return errors.New("away") }

// What a new redoubtd says first has every network that there is, whatever it
// heard in which order: netd removes what is not in it.
func TestFirstDeclarationIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		netd := &told{}
		m, err := New(Config{Netd: netd, Named: away{}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		defer func() { cancel(); <-done }()

		if ids, keep := m.Namespaces(); len(ids) > 0 || !keep {
			t.Errorf("at first: %v, %v", ids, keep)
		}
		m.SetTasks(nil)
		m.SetNamespaces(nil, nil)
		m.SetView(&View{Self: Node{ID: "self", Mesh: netip.MustParsePrefix("198.18.0.1/15")}, Networks: map[string]*Network{
			nets[0]: {ID: nets[0], Kind: meshpb.Kind_KIND_OVERLAY, VNI: 4096}, nets[1]: {ID: nets[1], Kind: meshpb.Kind_KIND_OVERLAY, VNI: 4097},
			"web": {ID: "web", Kind: meshpb.Kind_KIND_INGRESS, VNI: 4098, ServiceID: "s1", Entries: map[string]bool{"self": true}, Ports: []Port{{Published: 80, Target: 80}}}}})
		synctest.Wait()
		if len(netd.all)+len(netd.ingress) > 0 {
			t.Fatalf("netd was told %v", netd.all)
		}
		ids, keep := m.Namespaces()
		if !slices.Equal(ids, append(slices.Clone(nets), Ingress)) || !keep {
			t.Errorf("namespaces %v, %v", ids, keep)
		}
		m.SetNamespaces(ids, map[string]string{nets[1]: "no"})
		synctest.Wait()
		if len(netd.all) != 1 || netd.all[0].Base != 0 || len(netd.all[0].Networks) != 1 {
			t.Fatalf("netd was told %v", netd.all)
		}
		if len(netd.ingress) != 1 || netd.ingress[0].Base != 0 || len(netd.ingress[0].Services) != 1 || netd.ingress[0].Netns != "net-ingress" {
			t.Fatalf("netd was told of ports: %v", netd.ingress)
		}
		if _, keep := m.Namespaces(); keep {
			t.Error("namespaces that nobody needs are kept")
		}
	})
}

// What netd was not told of yet it may be told any moment: it is held as soon as it is
// said, and until it is said no more and netd let go of it.
func TestHeldAsSoonAsSaid(t *testing.T) {
	m, err := New(Config{Netd: away{}, Named: away{}})
	if err != nil {
		t.Fatal(err)
	}
	m.netd.tasks, m.ingress.has = map[string]bool{}, map[string]bool{} // nothing of a former process
	m.SetTasks([]Task{{ID: "t1"}})
	if states, settled := m.States(); !settled || !states["t1"].Held {
		t.Errorf("%v, %v", states, settled)
	}
	m.netd.tasks["t1"] = true
	m.SetTasks(nil)
	if states, _ := m.States(); !states["t1"].Held {
		t.Error("netd has it")
	}
	delete(m.netd.tasks, "t1")
	if states, _ := m.States(); states["t1"].Held {
		t.Error("nobody has it")
	}
}
