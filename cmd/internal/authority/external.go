package authority

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// SetExternalCA implements controlpb.AuthorityServer. The CA is in force when it
// returns; workers take their certificates of it after that. What of it cannot be
// used keyd says.
func (s *Server) SetExternalCA(ctx context.Context, req *controlpb.SetExternalCARequest) (*controlpb.SetExternalCAResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	chain := req.GetChain()
	if len(chain) != 2 || len(chain[0])+len(chain[1]) > 2*profile.MaxCert {
		return nil, apierr.Invalid("", "an external CA is two certificates: the one that signs leaves, and its root")
	}
	root, err := x509.ParseCertificate(chain[1])
	if err != nil {
		return nil, apierr.Invalid("", "the root of the external CA is malformed")
	}
	if err := s.c.Store.Barrier(ctx); err != nil {
		return nil, err
	}
	if err := s.idle(); err != nil {
		return nil, refusal(err)
	}
	if err := s.c.Store.View(func(r *raftstore.ReadTx) error { return allKnowExternal(r) }); err != nil {
		return nil, err
	}
	if err := s.c.Probe(ctx, req.GetUrl(), root); err != nil {
		return nil, apierr.State("see that it runs and can be reached from every manager, and that --chain is its own", "%v", err)
	}
	to := &pkipb.External{Url: req.GetUrl(), Provisioner: req.GetProvisioner(), Root: chain[1]}
	ordered := &keydpb.External{Url: to.Url, Provisioner: to.Provisioner, Chain: chain}
	resp := &controlpb.SetExternalCAResponse{}
	resp.KeysetEpoch, resp.Away, err = s.changeExternal(ctx, keydpb.CAChange_CA_CHANGE_EXTERNAL, ordered, func(tx *raftstore.Tx, next pki.NextCA) error {
		if err := allKnowExternal(tx); err != nil { // one joined meanwhile
			return err
		}
		return pki.SetExternal(to)(tx, next)
	})
	if err != nil {
		return nil, err
	}
	s.c.Logger.InfoContext(ctx, "an external CA signs workers", "url", to.Url, "keyset_epoch", resp.KeysetEpoch)
	return resp, nil
}

// allKnowExternal refuses where a node does not say that it takes certificates below
// an external CA: that one would neither renew nor believe the others.
func allKnowExternal(r raftstore.Reader) error {
	var unaware []string
	for n := range pkistore.Nodes.All(r) {
		machine, _ := schedstore.Nodes.Get(r, n.GetId())
		if !n.GetDenied() && !slices.ContainsFunc(machine.GetDescription().GetFeatures(), func(f *taskpb.Feature) bool {
			return f.GetName() == pki.ExternalFeature && f.GetPresent()
		}) {
			unaware = append(unaware, n.GetName())
		}
	}
	if len(unaware) == 0 {
		return nil
	}
	slices.Sort(unaware)
	names := strings.Join(unaware[:min(len(unaware), maxNamed)], ", ")
	if more := len(unaware) - maxNamed; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return apierr.State("upgrade them, wait until they have connected, or remove them", "nodes that do not say that they take certificates of an external CA: %s", names)
}

// RemoveExternalCA implements controlpb.AuthorityServer.
func (s *Server) RemoveExternalCA(ctx context.Context, _ *controlpb.RemoveExternalCARequest) (*controlpb.RemoveExternalCAResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := s.c.Store.Barrier(ctx); err != nil {
		return nil, err
	}
	if err := s.idle(); err != nil {
		return nil, refusal(err)
	}
	resp := &controlpb.RemoveExternalCAResponse{}
	var err error
	resp.KeysetEpoch, resp.Away, err = s.changeExternal(ctx, keydpb.CAChange_CA_CHANGE_NO_EXTERNAL, nil, pki.RemoveExternal)
	if err != nil {
		return nil, err
	}
	s.c.Logger.InfoContext(ctx, "the cluster's own CA signs workers", "keyset_epoch", resp.KeysetEpoch)
	return resp, nil
}

func (s *Server) changeExternal(ctx context.Context, change keydpb.CAChange, external *keydpb.External, do func(*raftstore.Tx, pki.NextCA) error) (epoch uint64, away []string, _ error) {
	err := s.stepTo(ctx, change, external, func(tx *raftstore.Tx, next pki.NextCA) error {
		if err := do(tx, next); err != nil {
			return err
		}
		c, err := pkistore.GetCluster(tx)
		epoch, away = pki.KeysetEpoch(c), s.away(tx)
		return err
	})
	switch code := keydclient.CodeOf(err); {
	case code == keydpb.Code_CODE_INVALID:
		return 0, nil, apierr.Invalid("", "%v", err)
	case code == keydpb.Code_CODE_DENIED:
		return 0, nil, apierr.State("", "%v", err)
	case err != nil:
		return 0, nil, refusal(err)
	}
	s.Look()
	return epoch, away, nil
}
