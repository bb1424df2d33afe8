package node

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/profile"
)

// roleNode is a node with a disk and a real keyd, and nothing that runs.
func roleNode(t *testing.T) *Node {
	t.Helper()
	run, err := os.MkdirTemp("", "role") // short, as socket paths must be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	s, err := keyd.New(keyd.Config{Dir: t.TempDir(), ControlUID: uint32(os.Getuid()), Section: keyd.DefaultSection()})
	if err != nil {
		t.Fatal(err)
	}
	var ls []net.Listener
	for _, name := range []string{"c", "u"} {
		l, err := net.Listen("unix", filepath.Join(run, name))
		if err != nil {
			t.Fatal(err)
		}
		ls = append(ls, l)
	}
	serveInTest(t, func(ctx context.Context) error { return s.Serve(ctx, ls[0], ls[1]) })
	n := &Node{log: slog.New(slog.DiscardHandler), disk: disk{t.TempDir()}, keyd: keydclient.New(filepath.Join(run, "c"))}
	t.Cleanup(func() { n.keyd.Close() })
	return n
}

// keys gives keyd a keyset, as an import would.
func (n *Node) testKeys(t *testing.T) {
	t.Helper()
	key, err := n.keyd.PrepareJoin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	csr := func(keydKey []byte) []byte {
		k, err := pki.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		der, err := profile.NewCSR(k, keydKey)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	operator := autolock.NewOperatorKey()
	if _, err := n.keyd.Init(t.Context(), &keydpb.InitRequest{NodeId: ident.New(), ManagerCsr: csr(key), BootCsr: csr(nil), Slots: []*keydpb.Slot{operator.Slot()}}); err != nil {
		t.Fatal(err)
	}
}

// A node that stops between any two steps of becoming a manager, or of ceasing
// to be one, is one or the other after its start, with the keys of that and no
// others.
func TestRoleChangeCutShort(t *testing.T) {
	id := ident.New()
	asWorker, asManager := member{NodeID: id, ClusterID: ident.New()}, member{NodeID: id, Manager: true, Advertise: "192.0.2.1:2377"}
	asManager.ClusterID = asWorker.ClusterID
	plain, sealed, boot := &leafFile{Chain: [][]byte{{1}}, Key: []byte{1}}, &leafFile{Chain: [][]byte{{2}}, Sealed: []byte{2}}, &leafFile{Chain: [][]byte{{3}}, Key: []byte{3}}
	staged := &promotion{Member: asManager, Leaf: *sealed, Boot: *boot}
	type step func(t *testing.T, n *Node) error
	keys := func(t *testing.T, n *Node) error { n.testKeys(t); return nil }
	forget := func(t *testing.T, n *Node) error { return n.keyd.Forget(t.Context()) }
	stage := func(_ *testing.T, n *Node) error { return n.disk.savePromotion(staged) }
	unstage := func(_ *testing.T, n *Node) error { return n.disk.removePromotion() }
	leaf := func(l *leafFile) step { return func(_ *testing.T, n *Node) error { return n.disk.saveLeaf("leaf", l) } }
	bootLeaf := func(_ *testing.T, n *Node) error { return n.disk.saveLeaf("boot", boot) }
	role := func(m member) step { return func(_ *testing.T, n *Node) error { return n.disk.saveMember(&m) } }
	store := func(_ *testing.T, n *Node) error { return os.Mkdir(n.disk.raftDir(1), 0o700) }
	unboot := func(_ *testing.T, n *Node) error { return os.Remove(n.disk.path("boot")) }
	worker := []step{role(asWorker), leaf(plain)}
	manager := []step{role(asManager), leaf(sealed), bootLeaf, store, keys}
	for _, tc := range []struct {
		name   string
		before []step
		steps  []step
		// From that step on the node is what it was to become.
		turns int
		// stays is whether what is staged is kept, by the number of steps done.
		stays []bool
	}{
		{"promotion", worker, []step{keys, stage, leaf(sealed), bootLeaf, role(asManager), unstage}, 3, []bool{false, false, true, false, false, false, false}},
		{"promotion given up", append(append([]step{}, worker...), keys, stage), []step{forget, unstage}, 99, []bool{true, false, false}},
		{"demotion", manager, []step{leaf(plain), role(asWorker), forget, unboot, func(_ *testing.T, n *Node) error { return n.disk.wipeManager() }}, 1, make([]bool, 6)},
	} {
		for done := range len(tc.steps) + 1 {
			n := roleNode(t)
			for _, s := range append(append([]step{}, tc.before...), tc.steps[:done]...) {
				if err := s(t, n); err != nil {
					t.Fatal(err)
				}
			}
			m, err := n.disk.loadMember()
			if err != nil {
				t.Fatal(err)
			}
			n.become(m)
			if m, err = n.mendRole(t.Context(), m); err != nil {
				t.Fatalf("%s after %d steps: %v", tc.name, done, err)
			}
			left, err := n.disk.loadPromotion()
			if err != nil {
				t.Fatal(err)
			}
			if !m.Manager {
				if left, err = n.settleKeyd(t.Context(), left); err != nil {
					t.Fatal(err)
				}
			}
			st, err := n.keyd.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			l, err := n.disk.loadLeaf("leaf")
			if err != nil {
				t.Fatal(err)
			}
			kept, err := n.disk.loadMember()
			if err != nil {
				t.Fatal(err)
			}
			turned, toManager := done >= tc.turns, tc.name == "promotion"
			wantManager := turned == toManager && tc.name != "promotion given up"
			holds := st.GetState() != keydpb.LockState_LOCK_STATE_EMPTY
			if m.Manager != wantManager || kept.Manager != wantManager || (len(l.Sealed) > 0) != wantManager || (left != nil) != tc.stays[done] ||
				holds != (wantManager || tc.stays[done]) || !wantManager && (n.disk.used() || n.disk.has("boot")) {
				t.Errorf("%s after %d steps: manager %v (on disk %v), sealed leaf %v, staged %v, keyd %v, store %v", tc.name, done, m.Manager, kept.Manager,
					len(l.Sealed) > 0, left != nil, st.GetState(), n.disk.used())
			}
		}
	}
}
