package authority

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// action is what is to be done next.
type action struct {
	change keydpb.CAChange // unspecified: nothing
	do     func(*raftstore.Tx, pki.NextCA) error
	what   string
}

// Run does what is due while this manager leads, until ctx ends or the store does.
func (s *Server) Run(ctx context.Context) error {
	began := time.Now()
	for {
		err := s.follow(ctx, began)
		if !errors.Is(err, raftstore.ErrLagged) {
			return err
		}
	}
}

func (s *Server) follow(ctx context.Context, began time.Time) error {
	w, err := s.c.Store.Watch(func(*raftstore.ReadTx) error { return nil }, pkistore.Nodes, pkistore.Cluster)
	if err != nil {
		return err
	}
	defer w.Close()
	for retry := stepRetry; ; {
		looked := time.Now()
		due, rotating, err := s.due(time.Since(began) < wakeTime)
		if err != nil {
			return err
		}
		rest := min(max(lookPause, lookRest*time.Since(looked)), lookInterval)
		wait := idleInterval
		if rotating {
			wait = lookInterval
		}
		switch {
		case due.do == nil:
			retry = stepRetry
		default:
			err := s.step(ctx, due.change, due.do)
			switch {
			case err == nil:
				s.c.Logger.Info("certificate authorities: "+due.what, "epoch", s.c.Epoch()+1)
				retry = stepRetry
				continue
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, errBehind):
				wait = lookPause // keyd is taking it over
			case errors.Is(err, pki.ErrRotated), errors.Is(err, raftstore.ErrConflict):
				wait = stepRetry
			default:
				s.c.Logger.Warn("certificate authorities: a step failed and is tried again", "step", due.what, "err", err, "retry_in", retry)
				wait, retry = retry, min(2*retry, longestStepRetry)
			}
			if err := pause(ctx, wait); err != nil {
				return err
			}
			continue
		}
		if err := s.wait(ctx, w, wait); err != nil {
			return err
		}
		if err := pause(ctx, rest); err != nil {
			return err
		}
	}
}

// wait returns when something changed, when it was kicked, and after d.
func (s *Server) wait(ctx context.Context, w *raftstore.Watch, d time.Duration) error {
	waiting, cancel := context.WithTimeout(ctx, d)
	var kicked sync.WaitGroup
	kicked.Go(func() {
		select {
		case <-s.kick:
			cancel()
		case <-waiting.Done():
		}
	})
	_, err := w.Next(waiting)
	over := waiting.Err() != nil
	cancel()
	kicked.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil && over {
		return nil
	}
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// due says what is to be done now. A leader that is new leaves the issuing CA as
// it is while managers may be about to show what they re-issued themselves.
func (s *Server) due(fresh bool) (out action, rotating bool, err error) {
	sessions := s.sessions()
	err = s.c.Store.View(func(r *raftstore.ReadTx) error {
		c, ok := pkistore.Cluster.Get(r, pkistore.ClusterID)
		if !ok {
			return nil
		}
		now := r.Clock()
		if c.GetRotation() == nil {
			if old, err := aged(c, now); err != nil || !old || s.waking(r, now, fresh) {
				return err
			}
			out = action{keydpb.CAChange_CA_CHANGE_ISSUER, pki.RotateIssuer, "the issuing CA was old and was replaced"}
			return nil
		}
		rotating = true
		behind := 0
		for n := range pkistore.Nodes.All(r) {
			if n.GetDenied() {
				continue
			}
			said, connected := sessions[n.GetId()]
			// One that was up a moment ago may be about to connect to this leader.
			sched, _ := schedstore.Nodes.Get(r, n.GetId())
			if (connected || schedstore.Up(sched)) && !ready(c, n, said) {
				behind++
			}
		}
		waited := now.Sub(time.Unix(0, c.GetRotation().GetPhaseAt()))
		if behind > 0 && waited < pki.Straggler {
			return nil
		}
		out = after(c.GetRotation().GetPhase())
		if behind > 0 {
			out.what += fmt.Sprintf(", not waiting for %d nodes any longer", behind)
		}
		return nil
	})
	return out, rotating, err
}

// after is how a phase ends.
func after(p pkipb.Rotation_Phase) action {
	switch p {
	case pkipb.Rotation_PHASE_DISTRIBUTE:
		return action{keydpb.CAChange_CA_CHANGE_SWITCH_ROOT, pki.SwitchRoot, "the new root signs"}
	case pkipb.Rotation_PHASE_REISSUE:
		return action{keydpb.CAChange_CA_CHANGE_DROP_ROOT, pki.FinishRoot, "the old root is gone"}
	case pkipb.Rotation_PHASE_RETURN:
		return action{keydpb.CAChange_CA_CHANGE_DROP_ROOT, pki.FinishRoot, "the root that was given up is gone"}
	}
	return action{}
}

// ready reports whether a node has done what the phase asks for; said are the
// roots that it trusts by its own word.
func ready(c *pkipb.Cluster, n *pkipb.Node, said [][]byte) bool {
	r := c.GetRotation()
	if pki.Reissues(r) || r == nil {
		return !pki.NeedsReissue(c, n)
	}
	return trusts(said, r.GetNewRoot())
}

func trusts(said [][]byte, root []byte) bool {
	return slices.ContainsFunc(said, func(h []byte) bool { return bytes.Equal(h, root) })
}

// sessions are the nodes that are connected, and what they say to trust.
func (s *Server) sessions() map[string][][]byte {
	out := map[string][][]byte{}
	for _, ses := range s.c.Sessions() {
		out[ses.NodeID] = ses.Trusts
	}
	return out
}

// aged reports whether the issuing CA has signed for long enough.
func aged(c *pkipb.Cluster, now time.Time) (bool, error) {
	at, err := replaceAt(c)
	return err == nil && !now.Before(at), err
}

// waking reports whether there is a manager whose certificate on record has ended:
// all were off for long, and each had its own keyd certify a new key, below the CA
// that there is. Once another CA is in force that certificate is believed no more,
// so it is recorded first. Who has no session is waited for while the leader is
// new only: it may never come back.
func (s *Server) waking(r raftstore.Reader, now time.Time, fresh bool) bool {
	sessions := s.sessions()
	for n := range pkistore.Nodes.By(r, "role", "manager") {
		_, connected := sessions[n.GetId()]
		if !n.GetDenied() && n.GetLeafNotAfter() != 0 && now.Unix() > n.GetLeafNotAfter() && (connected || fresh) {
			return true
		}
	}
	return false
}

// replaceAt is when the issuing CA is replaced by itself.
func replaceAt(c *pkipb.Cluster) (time.Time, error) {
	if len(c.GetIssuers()) == 0 {
		return time.Time{}, errors.New("the cluster record names no issuing CA")
	}
	cert, err := x509.ParseCertificate(c.GetIssuers()[0])
	if err != nil {
		return time.Time{}, errors.New("the issuing CA's certificate on record is malformed")
	}
	return cert.NotBefore.Add(pki.CABackdate + pki.IssuerLife), nil
}
