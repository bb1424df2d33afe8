package pki_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// TestExposures: the exposure of a root's key is told of until the root is replaced and
// no node has a certificate of before; who is removed while the root is replaced knew
// both roots, and exposed the one that stays.
func TestExposures(t *testing.T) {
	const before, during = "before", "during"
	for name, tc := range map[string]struct {
		removed string // when the manager is
		abort   bool
		away    bool // the worker takes no certificate below the new root
		former  bool // its exposure is of a former root in the end
		left    bool // and told of
	}{
		"everybody follows":                   {removed: before},
		"one is away":                         {removed: before, away: true, former: true, left: true},
		"given up":                            {removed: before, abort: true, left: true},
		"removed meanwhile":                   {removed: during, left: true},
		"removed meanwhile, and it is undone": {removed: during, abort: true, left: true},
	} {
		t.Run(name, func(t *testing.T) {
			c, other := newCrew(t), pkitest.New(t)
			step := func(do func(*raftstore.Tx, pki.NextCA) error, next pki.NextCA) {
				t.Helper()
				cl, _ := c.read()
				next.Epoch = pki.KeysetEpoch(cl) + 1
				c.must(func(tx *raftstore.Tx) error { return do(tx, next) })
			}
			remove := func(when string) {
				cl, _ := c.read()
				if when == tc.removed {
					if err := c.leave(c.b.GetId(), pki.Leaving{Compromised: true, Next: c.next(c.b, pki.KeysetEpoch(cl)+1)}); err != nil {
						t.Fatal(err)
					}
				}
			}
			reissue := func(ids ...string) {
				c.must(func(tx *raftstore.Tx) error {
					cl, err := store.GetCluster(tx)
					for _, id := range ids {
						n, _ := store.Nodes.Get(tx, id)
						n = proto.CloneOf(n)
						n.LeafIssuer, n.BootIssuer = pki.ActiveIssuer(cl), pki.ActiveIssuer(cl)
						if err := store.Nodes.Put(tx, n); err != nil {
							return err
						}
					}
					return err
				})
			}
			told := func() []*pkipb.Exposure { cl, _ := c.read(); return cl.GetExposures() }

			remove(before)
			step(pki.BeginRoot, pki.NextCA{Root: c.Root.Raw, Other: other.Root.Raw})
			remove(during)
			stays := c.Root.Raw
			if !tc.abort {
				stays = other.Root.Raw
				step(pki.SwitchRoot, pki.NextCA{Root: stays, Other: c.Root.Raw, Issuer: other.Issuer.Raw})
			}
			if reissue(c.a.GetId()); !tc.away {
				reissue(c.w.GetId())
			}
			if len(told()) != 1 {
				t.Fatalf("while the root is replaced: %v", told())
			}
			step(pki.FinishRoot, pki.NextCA{Root: stays})
			if e := told(); (len(e) == 1) != tc.left || tc.left && (e[0].GetFormerRoot() != tc.former || e[0].GetBothRoots()) {
				t.Errorf("in the end: %v", e)
			}
			if c.must(pki.DropFormer); (len(told()) == 1) != tc.left {
				t.Errorf("after a while: %v", told())
			}
			if reissue(c.w.GetId()); !tc.away {
				return
			}
			if c.must(pki.DropFormer); len(told()) != 0 {
				t.Errorf("after the last node has its certificate: %v", told())
			}
			if cl, _ := c.read(); len(cl.GetFormerIssuers()) == 0 {
				t.Error("the former issuers are forgotten with it, without grace")
			}
		})
	}
}

// TestExposeLater: of a manager that was removed it is learnt later that its keys are in
// other hands. It had those of the roots of its time.
func TestExposeLater(t *testing.T) {
	for name, tc := range map[string]struct {
		during bool // it was removed while the root was replaced
		old    bool // and before the root that there is now was made
		behind bool // a node trusts a root of before
		want   []*pkipb.Exposure
	}{
		"the root of its time":               {want: []*pkipb.Exposure{{}}},
		"both":                               {during: true, want: []*pkipb.Exposure{{BothRoots: true}}},
		"one that is gone":                   {old: true},
		"one that a node trusts":             {old: true, behind: true, want: []*pkipb.Exposure{{FormerRoot: true}}},
		"none of those that are there, both": {during: true, old: true, want: []*pkipb.Exposure{{FormerRoot: true}}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCrew(t)
			epoch := uint64(1)
			if tc.during {
				epoch++
				c.must(func(tx *raftstore.Tx) error {
					return pki.BeginRoot(tx, pki.NextCA{Epoch: epoch, Root: c.Root.Raw, Other: pkitest.New(t).Root.Raw})
				})
			}
			if err := c.leave(c.b.GetId(), pki.Leaving{Next: c.next(c.b, epoch+1)}); err != nil {
				t.Fatal(err)
			}
			c.must(func(tx *raftstore.Tx) error {
				cl, err := store.GetCluster(tx)
				if err != nil {
					return err
				}
				for _, id := range []string{c.a.GetId(), c.b.GetId(), c.w.GetId()} {
					n, _ := store.Nodes.Get(tx, id)
					n = proto.CloneOf(n)
					if id == c.b.GetId() && tc.old {
						n.DeniedAt = 1
					}
					if id != c.b.GetId() && !tc.behind {
						n.LeafIssuer, n.BootIssuer = pki.ActiveIssuer(cl), pki.ActiveIssuer(cl)
					}
					if err := store.Nodes.Put(tx, n); err != nil {
						return err
					}
				}
				return nil
			})
			for range 2 { // the second changes nothing
				c.must(func(tx *raftstore.Tx) error { return pki.Expose(tx, c.b.GetId()) })
			}
			c.must(func(tx *raftstore.Tx) error { return pki.Expose(tx, c.a.GetId()) }) // a member
			cl, _ := c.read()
			got := cl.GetExposures()
			if len(got) != len(tc.want) {
				t.Fatalf("%v, want %v", got, tc.want)
			}
			for i, e := range got {
				if e.GetNodeId() != c.b.GetId() || e.GetBothRoots() != tc.want[i].GetBothRoots() || e.GetFormerRoot() != tc.want[i].GetFormerRoot() {
					t.Errorf("%v, want %v", e, tc.want[i])
				}
			}
		})
	}
}
