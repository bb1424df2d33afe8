package authority

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// MinWorkerLeaf is the shortest life of a worker's leaf; keyd has the same.
const MinWorkerLeaf = time.Hour

// RotateCA implements controlpb.AuthorityServer. The issuing CA is replaced when it
// returns; the root's replacement has begun.
func (s *Server) RotateCA(ctx context.Context, req *controlpb.RotateCARequest) (*controlpb.RotateCAResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	life := time.Duration(req.GetWorkerLeafSeconds()) * time.Second
	switch {
	case life != 0 && (life < MinWorkerLeaf || life > profile.MaxLeafLife):
		return nil, apierr.Invalid("", "workers' certificates live between %s and %s", MinWorkerLeaf, profile.MaxLeafLife)
	case req.GetOnlyLife() && (life == 0 || req.GetRoot()):
		return nil, apierr.Invalid("", "say how long workers' certificates live, and nothing else")
	}
	if err := s.c.Store.Barrier(ctx); err != nil {
		return nil, err
	}
	resp := &controlpb.RotateCAResponse{}
	setLife := func(tx *raftstore.Tx) error {
		if life == 0 {
			return nil
		}
		return pki.SetWorkerLife(tx, req.GetWorkerLeafSeconds())
	}
	if req.GetOnlyLife() {
		if err := s.c.Store.Update(ctx, setLife); err != nil {
			return nil, err
		}
		s.c.Logger.InfoContext(ctx, "the life of workers' certificates was set", "life", life)
		return resp, nil
	}
	change, do, may := keydpb.CAChange_CA_CHANGE_ISSUER, pki.RotateIssuer, s.idle
	if req.GetRoot() {
		change, do, may = keydpb.CAChange_CA_CHANGE_NEW_ROOT, pki.BeginRoot, s.mayBeginRoot
	}
	if err := may(); err != nil { // before keyd makes keys for nothing
		return nil, refusal(err)
	}
	err := s.step(ctx, change, func(tx *raftstore.Tx, next pki.NextCA) error {
		c, err := pkistore.GetCluster(tx)
		if err != nil {
			return err
		}
		if c.GetRotation() != nil {
			return pki.ErrRotating
		}
		if err := do(tx, next); err != nil {
			return err
		}
		if c, err = pkistore.GetCluster(tx); err != nil {
			return err
		}
		resp.KeysetEpoch, resp.TokensVoid, resp.Away = pki.KeysetEpoch(c), c.GetRotation().GetTokensVoid(), s.away(tx)
		return setLife(tx)
	})
	if err != nil {
		if begun := s.idle(); begun != nil { // somebody else was faster
			err = begun
		}
		return nil, refusal(err)
	}
	s.Look()
	s.c.Logger.InfoContext(ctx, "certificate authorities rotated", "root", req.GetRoot(), "keyset_epoch", resp.GetKeysetEpoch())
	return resp, nil
}

// idle returns an error while a root is being replaced.
func (s *Server) idle() error {
	return s.c.Store.View(func(r *raftstore.ReadTx) error {
		c, err := pkistore.GetCluster(r)
		if err == nil && c.GetRotation() != nil {
			err = pki.ErrRotating
		}
		return err
	})
}

// mayBeginRoot returns why the root can not be replaced now.
func (s *Server) mayBeginRoot() error {
	return s.c.Store.View(func(r *raftstore.ReadTx) error {
		c, err := pkistore.GetCluster(r)
		if err == nil {
			err = pki.MayBeginRoot(c)
		}
		return err
	})
}

// away names the nodes without a session.
func (s *Server) away(r raftstore.Reader) (names []string) {
	sessions := s.sessions()
	for n := range pkistore.Nodes.All(r) {
		if _, connected := sessions[n.GetId()]; !connected && !n.GetDenied() {
			names = append(names, n.GetName())
		}
	}
	slices.Sort(names)
	return names
}

// AbortCA implements controlpb.AuthorityServer.
func (s *Server) AbortCA(ctx context.Context, _ *controlpb.AbortCARequest) (*controlpb.AbortCAResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for try := 1; ; try++ {
		err := s.abort(ctx)
		again := errors.Is(err, pki.ErrRotated) || errors.Is(err, errBehind)
		if again && try < abortTries && pause(ctx, stepRetry) == nil {
			continue
		}
		if err != nil {
			return nil, refusal(err)
		}
		s.Look()
		s.c.Logger.InfoContext(ctx, "the replacement of the root is given up")
		return &controlpb.AbortCAResponse{}, nil
	}
}

func (s *Server) abort(ctx context.Context) error {
	if err := s.c.Store.Barrier(ctx); err != nil {
		return err
	}
	var phase pkipb.Rotation_Phase
	err := s.c.Store.View(func(r *raftstore.ReadTx) error {
		c, err := pkistore.GetCluster(r)
		if err == nil && c.GetRotation() == nil {
			err = pki.ErrNotRotating
		}
		phase = c.GetRotation().GetPhase()
		return err
	})
	if err != nil {
		return err
	}
	switch phase {
	case pkipb.Rotation_PHASE_DISTRIBUTE:
		return s.step(ctx, keydpb.CAChange_CA_CHANGE_DROP_ROOT, inPhase(phase, pki.FinishRoot))
	case pkipb.Rotation_PHASE_REISSUE:
		return s.step(ctx, keydpb.CAChange_CA_CHANGE_SWITCH_ROOT, inPhase(phase, pki.SwitchRoot))
	}
	return pki.ErrNoAbort
}

// inPhase has do fail where the phase is another by then.
func inPhase(phase pkipb.Rotation_Phase, do func(*raftstore.Tx, pki.NextCA) error) func(*raftstore.Tx, pki.NextCA) error {
	return func(tx *raftstore.Tx, next pki.NextCA) error {
		c, err := pkistore.GetCluster(tx)
		if err != nil {
			return err
		}
		if c.GetRotation().GetPhase() != phase {
			return pki.ErrRotated
		}
		return do(tx, next)
	}
}
