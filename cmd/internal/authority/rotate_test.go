package authority

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

var errDied = errors.New("the leader died")

func atRest(c *pkipb.Cluster) bool { return c.GetRotation() == nil }

func atPhase(p pkipb.Rotation_Phase) func(*pkipb.Cluster) bool {
	return func(c *pkipb.Cluster) bool { return c.GetRotation().GetPhase() == p }
}

// begin replaces the root of a cluster by its leader s.
func (w *world) begin(s *Server) error {
	_, err := s.RotateCA(w.t.Context(), &controlpb.RotateCARequest{Root: true})
	return err
}

// TestRotationSurvivesItsLeader: wherever the leader dies while a root is replaced,
// before or after a step was committed, the record and the keyset that managers were
// given agree, and the next leader ends it.
func TestRotationSurvivesItsLeader(t *testing.T) {
	for call := 1; call <= 3; call++ {
		for _, committed := range []bool{false, true} {
			t.Run(fmt.Sprintf("step %d, committed %t", call, committed), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, 0)
				old := w.inForce().root
				ctx, die := context.WithCancel(t.Context())
				defer die()
				w.called = func(n int) error {
					if n != call {
						return nil
					}
					if !committed {
						die()
						return errDied // the keyset is made, and nobody was told
					}
					w.looked = func() { // the next look is after the commit
						if pki.KeysetEpoch(w.cluster()) == uint64(call)+1 {
							die()
						}
					}
					return nil
				}
				s := w.leader()
				err := w.begin(s)
				if begun := call > 1 || committed; begun != (err == nil) {
					t.Fatalf("the beginning: %v", err)
				}
				if err == nil {
					_ = w.leads(ctx, s, func(*pkipb.Cluster) bool { return false })
				}
				if ctx.Err() == nil {
					t.Fatal("the leader did not die where it should")
				}
				w.inForce()
				want := uint64(call)
				if committed {
					want++
				}
				if epoch := pki.KeysetEpoch(w.cluster()); epoch != want {
					t.Fatalf("epoch %d is in force, not %d", epoch, want)
				}

				// Its keyd has not taken the last keyset over yet.
				w.mu.Lock()
				w.called, w.looked, w.behind = nil, nil, true
				w.mu.Unlock()
				next := w.leader()
				if call == 1 && !committed {
					if err := w.begin(next); apierr.ReasonOf(err) != apierr.ReasonState {
						t.Errorf("a leader without the keyset in force begins: %v", err)
					}
					w.mu.Lock()
					w.behind = false
					w.mu.Unlock()
					if err := w.begin(next); err != nil {
						t.Fatal(err)
					}
				}
				adopted := time.AfterFunc(100*time.Millisecond, func() {
					w.mu.Lock()
					defer w.mu.Unlock()
					w.behind = false
				})
				defer adopted.Stop()
				_ = w.leads(t.Context(), next, atRest)
				w.ended(old.Raw, false)
			})
		}
	}
}

// ended fails the test unless a replacement of that root is over, and every
// connected node there.
func (w *world) ended(old []byte, aborted bool) {
	w.t.Helper()
	c := w.cluster()
	k := w.inForce()
	if c.GetRotation() != nil || c.GetLastRotation().GetAborted() != aborted || bytes.Equal(k.root.Raw, old) != aborted || k.other != nil {
		w.t.Fatalf("the root's replacement did not end: %v", c.GetRotation())
	}
	_ = w.s.View(func(r *raftstore.ReadTx) error {
		for _, id := range w.nodes {
			n, _ := pkistore.Nodes.Get(r, id)
			if pki.NeedsReissue(c, n) {
				w.t.Errorf("%s has a certificate of before", n.GetName())
			}
		}
		return nil
	})
}

// leadsUntil runs a leader until it looks at the nodes in that phase.
func (w *world) leadsUntil(s *Server, phase pkipb.Rotation_Phase) {
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	w.looked = func() {
		if atPhase(phase)(w.cluster()) {
			cancel()
		}
	}
	_ = w.leads(ctx, s, func(*pkipb.Cluster) bool { return false })
	w.looked = nil
}

// TestAbort gives a replacement up in each phase.
func TestAbort(t *testing.T) {
	for _, phase := range []pkipb.Rotation_Phase{pkipb.Rotation_PHASE_DISTRIBUTE, pkipb.Rotation_PHASE_REISSUE} {
		t.Run(phase.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 0)
			old, s := w.inForce().root, w.leader()
			if _, err := s.AbortCA(t.Context(), &controlpb.AbortCARequest{}); !strings.Contains(fmt.Sprint(err), "nothing to give up") {
				t.Errorf("nothing is given up: %v", err)
			}
			if err := w.begin(s); err != nil {
				t.Fatal(err)
			}
			w.leadsUntil(s, phase)
			if _, err := s.AbortCA(t.Context(), &controlpb.AbortCARequest{}); err != nil {
				t.Fatal(err)
			}
			if phase == pkipb.Rotation_PHASE_REISSUE {
				if _, err := s.AbortCA(t.Context(), &controlpb.AbortCARequest{}); !strings.Contains(fmt.Sprint(err), "given up already") {
					t.Errorf("it is given up twice: %v", err)
				}
			}
			_ = w.leads(t.Context(), s, atRest)
			w.ended(old.Raw, true)
			if err := w.begin(s); err != nil { // and again
				t.Fatal(err)
			}
			_ = w.leads(t.Context(), w.leader(), atRest)
			w.ended(old.Raw, false)
		})
	}
}

// TestOneAtATime: of many who ask at once one begins, and the others are told so.
func TestOneAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	s := w.leader()
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = w.begin(s) })
	}
	wg.Wait()
	began := 0
	for _, err := range errs {
		switch r := apierr.ReasonOf(err); {
		case err == nil:
			began++
		case r != apierr.ReasonState || strings.Contains(err.Error(), "\n"):
			t.Errorf("who came too late is told %v", err)
		}
	}
	if c := w.cluster(); began != 1 || pki.KeysetEpoch(c) != 2 || c.GetRotation().GetPhase() != pkipb.Rotation_PHASE_DISTRIBUTE {
		t.Errorf("%d began: %v", began, c.GetRotation())
	}
	w.inForce()
	for _, req := range []*controlpb.RotateCARequest{{}, {Root: true}} {
		if _, err := s.RotateCA(t.Context(), req); !strings.Contains(fmt.Sprint(err), "a root is being replaced already") {
			t.Errorf("a second one: %v", err)
		}
	}
}

// TestStraggler: a node that is connected and does nothing is waited for, and not
// for ever.
func TestStraggler(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	old, s := w.inForce().root, w.leader()
	w.still[w.nodes[2]] = true
	if err := w.begin(s); err != nil {
		t.Fatal(err)
	}
	for _, phase := range []pkipb.Rotation_Phase{pkipb.Rotation_PHASE_DISTRIBUTE, pkipb.Rotation_PHASE_REISSUE} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_ = w.leads(ctx, s, func(c *pkipb.Cluster) bool { return !atPhase(phase)(c) })
		cancel()
		if got := w.cluster().GetRotation().GetPhase(); got != phase {
			t.Fatalf("a node that is connected is not waited for: %v", got)
		}
		w.update(func(tx *raftstore.Tx) error {
			c, err := pkistore.GetCluster(tx)
			if err != nil {
				return err
			}
			c = proto.CloneOf(c)
			c.Rotation.PhaseAt -= int64(pki.Straggler)
			return pkistore.Cluster.Put(tx, c)
		})
		_ = w.leads(t.Context(), s, func(c *pkipb.Cluster) bool { return !atPhase(phase)(c) })
	}
	c := w.cluster()
	if c.GetRotation() != nil || bytes.Equal(c.GetRoots()[0], old.Raw) {
		t.Errorf("it did not end: %v", c.GetRotation())
	}
}

// TestIssuerAge: the issuing CA is replaced by itself when it has signed for 30 days.
func TestIssuerAge(t *testing.T) {
	for name, tc := range map[string]struct {
		age    time.Duration
		asleep bool // a manager's certificate on record has ended
		epoch  uint64
	}{
		"a minute before": {pki.IssuerLife - time.Minute, false, 1},
		"a second after":  {pki.IssuerLife + time.Second, false, 2},
		"while a manager has not shown yet what it re-issued": {pki.IssuerLife + time.Second, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tc.age)
			before := w.inForce()
			if tc.asleep {
				w.update(func(tx *raftstore.Tx) error {
					n, _ := pkistore.Nodes.Get(tx, w.managers[1])
					n = proto.CloneOf(n)
					n.LeafNotAfter = time.Now().Add(-time.Hour).Unix()
					return pkistore.Nodes.Put(tx, n)
				})
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_ = w.leads(ctx, w.leader(), func(*pkipb.Cluster) bool { return false })
			c, k := w.cluster(), w.inForce()
			if pki.KeysetEpoch(c) != tc.epoch || !k.root.Equal(before.root) {
				t.Fatalf("epoch %d is in force, not %d", pki.KeysetEpoch(c), tc.epoch)
			}
			if replaced := !bytes.Equal(k.issuer, before.issuer); replaced != (tc.epoch > 1) {
				t.Errorf("the issuing CA was replaced: %t", replaced)
			}
			if tc.epoch > 1 && !bytes.Equal(c.GetFormerIssuers()[0], before.issuer) {
				t.Error("the one before is no former one")
			}
		})
	}
}

// TestManagerAwayForLong: a manager that is off while the issuing CA is replaced ever
// again blocks nobody. It is given keysets as long as its certificate is taken.
func TestManagerAwayForLong(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	s, off := w.leader(), w.managers[1]
	reissued := func() {
		w.update(func(tx *raftstore.Tx) error {
			c, _ := pkistore.GetCluster(tx)
			n, _ := pkistore.Nodes.Get(tx, w.managers[0])
			n = proto.CloneOf(n)
			n.LeafIssuer, n.BootIssuer = pki.ActiveIssuer(c), pki.ActiveIssuer(c)
			return pkistore.Nodes.Put(tx, n)
		})
	}
	given := func() (epoch uint64) {
		_ = w.s.View(func(r *raftstore.ReadTx) error {
			rec, _ := autolockstore.Keysets.Get(r, off)
			epoch = rec.GetEpoch()
			return nil
		})
		return epoch
	}
	const remembered = 9 // the issuing CA in force and those of before
	for rotation := uint64(1); rotation <= remembered+3; rotation++ {
		if rotation == remembered+1 {
			w.managers = w.managers[:1] // what keyd is to be asked for
		}
		if _, err := s.RotateCA(t.Context(), &controlpb.RotateCARequest{}); err != nil {
			t.Fatalf("rotation %d: %v", rotation, err)
		}
		reissued()
		if want := min(rotation, remembered) + 1; given() != want {
			t.Fatalf("after rotation %d it was given the keyset of epoch %d, not of %d", rotation, given(), want)
		}
	}
}

// TestRefusals: what makes no sense changes nothing.
func TestRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	s := w.leader()
	for _, req := range []*controlpb.RotateCARequest{
		{WorkerLeafSeconds: 3599}, {WorkerLeafSeconds: 90*86400 + 1}, {OnlyLife: true}, {OnlyLife: true, Root: true, WorkerLeafSeconds: 7200},
	} {
		if _, err := s.RotateCA(t.Context(), req); apierr.ReasonOf(err) != apierr.ReasonInvalid {
			t.Errorf("%v: %v", req, err)
		}
	}
	if _, err := s.RotateCA(t.Context(), &controlpb.RotateCARequest{OnlyLife: true, WorkerLeafSeconds: 7200}); err != nil {
		t.Fatal(err)
	}
	if c := w.cluster(); c.GetWorkerLeafSeconds() != 7200 || pki.KeysetEpoch(c) != 1 {
		t.Errorf("%d seconds, epoch %d", c.GetWorkerLeafSeconds(), pki.KeysetEpoch(c))
	}
}

// TestNoRootWhileTheExternalCAFails: the root stays while workers would get no
// certificate below another one, also where that is found out when keyd made its keys;
// the issuing CA, of which workers have none, is replaced.
func TestNoRootWhileTheExternalCAFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	fails := func(why string) { w.edit(func(c *pkipb.Cluster) { c.External.Failure = why }) }
	s := w.leader()
	if err := w.setExternal(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	for name, meanwhile := range map[string]bool{"before": false, "while keyd makes keys": true} {
		if w.called = nil; meanwhile {
			fails("")
			w.called = func(int) error { fails("it does not answer"); return nil }
		} else {
			fails("it does not answer")
		}
		calls := w.calls
		err := w.begin(s)
		if apierr.ReasonOf(err) != apierr.ReasonState || !strings.Contains(fmt.Sprint(err), "none would get a certificate below a new root") {
			t.Errorf("it fails %s: %v", name, err)
		}
		if c := w.cluster(); c.GetRotation() != nil || (w.calls > calls) != meanwhile {
			t.Errorf("it fails %s: keyd was asked %d times, %v", name, w.calls-calls, c.GetRotation())
		}
	}
	w.called = nil
	if _, err := s.RotateCA(t.Context(), &controlpb.RotateCARequest{}); err != nil {
		t.Errorf("the issuing CA: %v", err)
	}
	fails("")
	if err := w.begin(s); err != nil {
		t.Errorf("it certifies again: %v", err)
	}
}
