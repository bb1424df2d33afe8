package pki_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// roleSigner is the authority, whose sealing the test can cut short.
type roleSigner struct{ *cluster }

func (r roleSigner) SealKeyset(ctx context.Context, m *profilepb.CertificateChain) ([]byte, error) {
	r.mu.Lock()
	hook := r.sealing
	r.mu.Unlock()
	if hook != nil {
		if err := hook(); err != nil {
			return nil, err
		}
	}
	return r.CA.SealKeyset(ctx, m)
}

func (c *cluster) whenSealing(f func() error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sealing = f
}

// members is a client as that node.
func (c *cluster) members(n *pkitest.Node) pkipb.MembershipClient {
	c.t.Helper()
	cc, err := port.DialGRPC(c.t.Context(), n.Credentials, []string{c.addr})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { cc.Close() })
	return pkipb.NewMembershipClient(cc)
}

func (c *cluster) wanted() *pkitest.Node {
	c.t.Helper()
	n := c.member(worker, time.Now())
	c.update(func(tx *raftstore.Tx) error { return pki.WantPromotion(tx, n.Record.GetId()) })
	return n
}

func keydKey(t *testing.T) []byte {
	t.Helper()
	k, err := pkitest.KeydKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func confirm(p *pki.Promotion) *pkipb.PromoteRequest {
	return &pkipb.PromoteRequest{Address: "192.0.2.7:2377", Confirm: &pkipb.PromotionConfirm{Leaf: p.Leaf, Boot: p.Boot}, StoreLevel: understood}
}

// A promotion that is cut short at any step leaves a worker, whose record says
// what it may know; going on from there makes a manager, once.
func TestPromotionCutShort(t *testing.T) {
	c := newCluster(t)
	n := c.wanted()
	client := c.members(n)
	id := n.Record.GetId()

	c.whenSealing(func() error { return errors.New("keyd is gone") })
	first := keydKey(t)
	if _, err := n.RequestPromotion(t.Context(), client, first, understood, nil); status.Code(err) != codes.Internal {
		t.Errorf("without keyd: %v", err)
	}
	rec := c.node(id)
	if rec.GetRole() != worker || rec.GetKeysetEpoch() != 1 || len(rec.GetGivenKeydKeys()) != 1 || !bytes.Equal(rec.GetGivenKeydKeys()[0], first) {
		t.Errorf("noted is %v", rec)
	}

	c.whenSealing(nil)
	second := keydKey(t)
	if _, err := n.RequestPromotion(t.Context(), client, second, understood, nil); err != nil {
		t.Fatal(err)
	}
	// Its reply was lost, so to speak: it asks with the same key again, which is
	// noted once.
	p, err := n.RequestPromotion(t.Context(), client, second, understood, nil)
	if err != nil {
		t.Fatal(err)
	}
	if rec = c.node(id); rec.GetRole() != worker || len(rec.GetGivenKeydKeys()) != 2 {
		t.Errorf("after two keys: %v", rec)
	}
	// The worker's connection ends with its role, maybe before the answer is out.
	if _, err := client.Promote(t.Context(), confirm(p)); err != nil && status.Code(err) != codes.Unavailable {
		t.Fatal(err)
	}
	rec = c.node(id)
	if rec.GetRole() != manager || !bytes.Equal(rec.GetLeaf(), p.Leaf.GetCertificates()[0]) || len(rec.GetGivenKeydKeys()) != 2 || rec.GetPromoteUntil() != 0 {
		t.Errorf("the manager's record is %v", rec)
	}
	if _, err := client.Promote(t.Context(), confirm(p)); err == nil {
		t.Error("it was confirmed twice")
	}
}

// What keyd seals while the keyset is rotated is not given: it could be the next
// one, which the record says nothing of.
func TestPromotionDuringRotation(t *testing.T) {
	c := newCluster(t)
	n := c.wanted()
	client := c.members(n)
	c.whenSealing(func() error {
		return c.store.Update(t.Context(), func(tx *raftstore.Tx) error {
			rec, err := store.GetCluster(tx)
			if err != nil {
				return err
			}
			rec = proto.CloneOf(rec)
			rec.KeysetEpoch = 2
			return store.Cluster.Put(tx, rec)
		})
	})
	if _, err := n.RequestPromotion(t.Context(), client, keydKey(t), understood, nil); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "rotated") {
		t.Errorf("%v", err)
	}
}

func TestPromotionRefusals(t *testing.T) {
	c := newCluster(t)
	unwanted := c.member(worker, time.Now())
	if _, err := unwanted.RequestPromotion(t.Context(), c.members(unwanted), keydKey(t), understood, nil); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a worker nobody wants: %v", err)
	}
	n := c.wanted()
	client := c.members(n)
	other := c.wanted()
	theirs, err := other.RequestPromotion(t.Context(), c.members(other), keydKey(t), understood, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Promote(t.Context(), confirm(theirs)); status.Code(err) != codes.InvalidArgument {
		t.Errorf("another node's certificates: %v", err)
	}
	c.update(func(tx *raftstore.Tx) error {
		rec, _ := store.Nodes.Get(tx, n.Record.GetId())
		rec = proto.CloneOf(rec)
		for range 8 {
			rec.GivenKeydKeys = append(rec.GivenKeydKeys, keydKey(t))
		}
		return store.Nodes.Put(tx, rec)
	})
	if _, err := n.RequestPromotion(t.Context(), client, keydKey(t), understood, nil); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "too often without becoming one") {
		t.Errorf("a ninth key: %v", err)
	}
}

// A demoted manager gets a worker's certificate for its manager's, as often as
// the reply is lost.
func TestDemoted(t *testing.T) {
	c := newCluster(t)
	n := c.member(manager, time.Now())
	if _, _, err := n.RequestDemotion(t.Context(), c.members(n), nil); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a manager that is one: %v", err)
	}
	c.update(func(tx *raftstore.Tx) error {
		rec, _ := store.Nodes.Get(tx, n.Record.GetId())
		rec = proto.CloneOf(rec)
		rec.Role = worker
		return store.Nodes.Put(tx, rec)
	})
	for range 2 {
		chain, key, err := n.RequestDemotion(t.Context(), c.members(n), nil)
		if err != nil {
			t.Fatal(err)
		}
		as, err := pki.NewCredentials(chain, key, c.Trust())
		if err != nil || as.Identity().Role != worker || as.Identity().NodeID != n.Record.GetId() {
			t.Errorf("%v, %v", as.Identity(), err)
		}
	}
}
