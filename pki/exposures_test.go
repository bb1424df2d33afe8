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
