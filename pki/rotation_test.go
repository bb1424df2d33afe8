package pki_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// crew is a store with two managers and a worker on record.
type crew struct {
	*pkitest.CA
	t          *testing.T
	s          *raftstore.Store
	a, b, w    *pkipb.Node
	aKey, bKey []byte
}

func newCrew(t *testing.T) *crew {
	c := &crew{CA: pkitest.New(t), t: t, s: raftstoretest.New(t, store.Tables()...)}
	certified := func() (*pkipb.Node, []byte) {
		n := c.NewNode(t, manager)
		key, err := pkitest.KeydKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		id := profile.Identity{ClusterID: c.ClusterID, NodeID: n.Record.GetId(), Role: manager, KeydKey: key}
		chain, err := c.Issue(id, n.Key.Public(), time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		n.Record.Leaf, n.Record.KeysetEpoch = chain.Certificates[0], 1
		return n.Record, key
	}
	c.a, c.aKey = certified()
	c.b, c.bKey = certified()
	c.w = c.NewNode(t, worker).Record
	c.must(func(tx *raftstore.Tx) error {
		return errors.Join(store.Cluster.Put(tx, c.Cluster()), store.Nodes.Put(tx, c.a), store.Nodes.Put(tx, c.b), store.Nodes.Put(tx, c.w))
	})
	return c
}

func (c *crew) must(fn func(*raftstore.Tx) error) {
	c.t.Helper()
	if err := c.s.Update(c.t.Context(), fn); err != nil {
		c.t.Fatal(err)
	}
}

func (c *crew) leave(id string, l pki.Leaving) error {
	return c.s.Update(c.t.Context(), func(tx *raftstore.Tx) error {
		_, err := pki.Leave(tx, id, l)
		return err
	})
}

func (c *crew) read() (cl *pkipb.Cluster, nodes map[string]*pkipb.Node) {
	nodes = map[string]*pkipb.Node{}
	_ = c.s.View(func(r *raftstore.ReadTx) error {
		cl, _ = store.GetCluster(r)
		for n := range store.Nodes.All(r) {
			nodes[n.GetId()] = n
		}
		return nil
	})
	return cl, nodes
}

// next is the keyset that would let n leave.
func (c *crew) next(n *pkipb.Node, epoch uint64) *pki.NextKeyset {
	out := &pki.NextKeyset{Epoch: epoch, Issuer: c.NextIssuer(c.t).Raw}
	_ = c.s.View(func(r *raftstore.ReadTx) error { out.Retired = pki.KeysToRetire(r, n); return nil })
	return out
}

// Whoever knows the keyset leaves with another one, made for just that, or not
// at all; a refusal changes nothing.
func TestLeaveRefusesWhatDoesNotFit(t *testing.T) {
	c := newCrew(t)
	other := bytes.Repeat([]byte{1}, 1216)
	for name, tc := range map[string]struct {
		who *pkipb.Node
		l   pki.Leaving
	}{
		"a manager without a next keyset":      {c.b, pki.Leaving{}},
		"a demotion without a next keyset":     {c.b, pki.Leaving{Demote: true}},
		"a worker with one":                    {c.w, pki.Leaving{Next: c.next(c.w, 2)}},
		"a worker demoted":                     {c.w, pki.Leaving{Demote: true}},
		"an epoch too early":                   {c.b, pki.Leaving{Next: c.next(c.b, 1)}},
		"an epoch too late":                    {c.b, pki.Leaving{Next: c.next(c.b, 3)}},
		"nobody":                               {&pkipb.Node{Id: "nobody"}, pki.Leaving{}},
		"a keyset that retires nobody":         {c.b, pki.Leaving{Next: &pki.NextKeyset{Epoch: 2, Issuer: c.Issuer.Raw}}},
		"a keyset that retires somebody else":  {c.b, pki.Leaving{Next: &pki.NextKeyset{Epoch: 2, Issuer: c.Issuer.Raw, Retired: [][]byte{other}}}},
		"a keyset made for another one's exit": {c.b, pki.Leaving{Next: c.next(c.a, 2)}},
	} {
		t.Run(name, func(t *testing.T) {
			before, nodes := c.read()
			if err := c.leave(tc.who.GetId(), tc.l); err == nil {
				t.Fatal("it left")
			}
			after, now := c.read()
			if !proto.Equal(before, after) || !slices.EqualFunc([]*pkipb.Node{nodes[c.a.Id], nodes[c.b.Id], nodes[c.w.Id]}, []*pkipb.Node{now[c.a.Id], now[c.b.Id], now[c.w.Id]}, func(x, y *pkipb.Node) bool { return proto.Equal(x, y) }) {
				t.Error("the refusal changed something")
			}
		})
	}
}

func TestLeave(t *testing.T) {
	for name, how := range map[string]pki.Leaving{"removed": {}, "removed as compromised": {Compromised: true}, "demoted": {Demote: true}} {
		t.Run(name, func(t *testing.T) {
			c := newCrew(t)
			old := c.Issuer.Raw
			how.Next = c.next(c.b, 2)
			if len(how.Next.Retired) != 1 || !bytes.Equal(how.Next.Retired[0], c.bKey) {
				t.Fatalf("%d keys are retired", len(how.Next.Retired))
			}
			if err := c.leave(c.b.GetId(), how); err != nil {
				t.Fatal(err)
			}
			cl, nodes := c.read()
			if pki.KeysetEpoch(cl) != 2 || !bytes.Equal(cl.GetIssuers()[0], c.Issuer.Raw) || len(cl.GetIssuers()) != 1 || !bytes.Equal(cl.GetFormerIssuers()[0], old) {
				t.Error("the cluster record does not say so")
			}
			n := nodes[c.b.GetId()]
			if n.GetDenied() == how.Demote || (n.GetRole() == worker) != how.Demote || n.GetCompromised() != how.Compromised || (len(cl.GetExposures()) == 1) != how.Compromised {
				t.Errorf("%v", n)
			}
			if how.Demote && pki.KnowsKeyset(cl, n) {
				t.Error("a demoted one counts as knowing the next keyset")
			}
			if err := c.leave(c.b.GetId(), pki.Leaving{}); how.Demote == (err != nil) {
				t.Errorf("leaving again: %v", err)
			}
		})
	}
}

// The keys of promotions that came to nothing are retired by the first rotation,
// whoever it is for, and those of managers that stay never are: a worker may
// name any key as its own.
func TestKeysOfUnfinishedPromotionsAreRetired(t *testing.T) {
	c := newCrew(t)
	lost, older := bytes.Repeat([]byte{7}, 1216), bytes.Repeat([]byte{8}, 1216)
	_, nodes := c.read()
	w := proto.CloneOf(nodes[c.w.GetId()])
	w.KeysetEpoch, w.GivenKeydKeys = 1, [][]byte{lost, c.aKey}
	a := proto.CloneOf(nodes[c.a.GetId()])
	a.GivenKeydKeys = [][]byte{older, c.aKey}
	c.must(func(tx *raftstore.Tx) error { return errors.Join(store.Nodes.Put(tx, w), store.Nodes.Put(tx, a)) })
	if err := c.leave(w.GetId(), pki.Leaving{}); !errors.Is(err, pki.ErrRotated) {
		t.Errorf("a worker that was given the keyset leaves without a rotation: %v", err)
	}
	for _, leaver := range []*pkipb.Node{w, c.b} {
		next := c.next(leaver, 2)
		has := func(k []byte) bool {
			return slices.ContainsFunc(next.Retired, func(r []byte) bool { return bytes.Equal(r, k) })
		}
		if !has(lost) || !has(older) || has(c.aKey) || has(c.bKey) != (leaver == c.b) {
			t.Errorf("%d keys are retired", len(next.Retired))
		}
	}
	if err := c.leave(w.GetId(), pki.Leaving{Next: c.next(w, 2)}); err != nil {
		t.Fatal(err)
	}
	_, nodes = c.read()
	if left := nodes[a.GetId()].GetGivenKeydKeys(); len(left) != 1 || !bytes.Equal(left[0], c.aKey) {
		t.Errorf("%d keys are still noted", len(left))
	}
}

// What a former issuer's leaf, and one of an issuer that nobody knows, is worth.
func TestFormerIssuers(t *testing.T) {
	ca := pkitest.New(t)
	old := ca.NewNode(t, manager)
	former := ca.Issuer
	ca.NextIssuer(t)
	fresh := ca.NewNode(t, manager)
	known := func(ids ...*pkitest.Node) func(profile.Identity) bool {
		return func(id profile.Identity) bool {
			return slices.ContainsFunc(ids, func(n *pkitest.Node) bool { return bytes.Equal(n.Identity().SPKI, id.SPKI) })
		}
	}
	away := func(d time.Duration) func() time.Duration { return func() time.Duration { return d } }
	trust := func(change func(*pki.Trust)) pki.Trust {
		tr := ca.Trust()
		tr.Former = []*x509.Certificate{former}
		change(&tr)
		return tr
	}
	behind := func(d time.Duration) pki.Trust { // knows only the issuer of before
		return trust(func(tr *pki.Trust) {
			tr.Issuers, tr.Former, tr.Behind = []*x509.Certificate{former}, nil, away(d)
		})
	}
	raft, h2, lock := pki.ExpectServer(pki.ALPNRaft, ""), pki.ExpectServer(pki.ALPNGRPC, ""), pki.ExpectServer(pki.ALPNLock, "")
	for _, tc := range []struct {
		name  string
		trust pki.Trust
		leaf  *pkitest.Node
		want  pki.Expect
		ok    bool
	}{
		{"the issuer in force", trust(func(*pki.Trust) {}), fresh, h2, true},
		{"a former one, nobody to ask", trust(func(*pki.Trust) {}), old, h2, false},
		{"a former one, on record", trust(func(tr *pki.Trust) { tr.Known = known(old) }), old, h2, true},
		{"a former one, another key on record", trust(func(tr *pki.Trust) { tr.Known = known(fresh) }), old, h2, false},
		{"a former one, long without a leader", trust(func(tr *pki.Trust) { tr.Behind = away(time.Hour) }), old, raft, false},
		{"a dropped one", trust(func(tr *pki.Trust) { tr.Former, tr.Known = nil, known(old) }), old, h2, false},
		{"unknown, with a leader", behind(0), fresh, raft, false},
		{"unknown, 9 s without one, raft", behind(9 * time.Second), fresh, raft, false},
		{"unknown, 11 s without one, raft", behind(11 * time.Second), fresh, raft, true},
		{"unknown, 1 s without one, calls", behind(time.Second), fresh, h2, false},
		{"unknown, 11 s without one, calls", behind(11 * time.Second), fresh, h2, true},
		{"unknown, an hour without one, lock", behind(time.Hour), fresh, lock, false},
		{"unknown, an hour without one, a caller", behind(time.Hour), fresh, pki.ExpectClient(pki.ALPNGRPC), false},
		{"unknown, an hour without one, local root", behind(time.Hour), fresh, pki.ExpectClient(pki.ALPNLocal), false},
		{"unknown, an hour without one, splice", behind(time.Hour), fresh, pki.ExpectClient(pki.ALPNLeader), false},
		{"another cluster's, an hour without one", behind(time.Hour), pkitest.New(t).NewNode(t, profilepb.Role_ROLE_MANAGER), raft, false},
	} {
		certs, err := profile.ParseChain(tc.leaf.Chain())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tc.trust.Verify(certs, tc.want); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}
