package control

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// identity resolves a SPIFFE id of this cluster, or a service, to the SPIFFE id.
// One that names a service which is not there is taken as it is: a denial may come
// before the service, and outlives it.
func (s *Server) identity(r raftstore.Reader, ref string) (string, error) {
	if strings.Contains(ref, "/") || strings.Contains(ref, ":") {
		cluster, _, _, err := profile.ParseServiceURI(ref)
		switch {
		case err != nil:
			return "", apierr.Invalid("", "%v", err)
		case cluster != s.c.ClusterID:
			return "", apierr.Invalid("", "the identity is of cluster %s, and this one is %s", cluster, s.c.ClusterID)
		}
		return ref, nil
	}
	svc, err := schedstore.ResolveService(r, ref)
	if err != nil {
		return "", err
	}
	return profile.ServiceURI(s.c.ClusterID, "", svc.GetSpec().GetName()).String(), nil
}

// RevokeIdentity denies a workload identity: nothing is issued for it, and nodes
// take back what their tasks have.
func (s *Server) RevokeIdentity(ctx context.Context, req *controlpb.RevokeIdentityRequest) (*controlpb.RevokeIdentityResponse, error) {
	resp := &controlpb.RevokeIdentityResponse{}
	err := s.update(ctx, func(tx *raftstore.Tx) error {
		id, err := s.identity(tx, req.GetIdentity())
		if err != nil {
			return err
		}
		rec, already, err := pki.DenyIdentity(tx, id)
		if errors.Is(err, pki.ErrManyDenied) {
			return apierr.State("", "%v", err)
		}
		resp.Identity, resp.Already, resp.Tasks = deniedView(rec), already, s.tasksOf(tx, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.c.Logger.InfoContext(ctx, "identity revoked", "identity", resp.Identity.GetId())
	if w := s.c.Workloads; w != nil {
		if err := s.list(ctx, resp.Identity.GetId(), w.IssuedFor, pki.ListIdentity); err != nil {
			return nil, fmt.Errorf("the identity is revoked, but what was issued for it is not on the revocation list yet (run this again): %w", err)
		}
	}
	return resp, nil
}

// list puts on the revocation list what was issued and has not ended. What is denied
// is so already, so nothing more is issued meanwhile.
func (s *Server) list(ctx context.Context, id string, issued func(string) ([]*pkipb.IssuedCertificate, error), put func(*raftstore.Tx, string, []*pkipb.IssuedCertificate) error) error {
	certs, err := issued(id)
	if err != nil || len(certs) == 0 {
		return err
	}
	return s.update(ctx, func(tx *raftstore.Tx) error { return put(tx, id, certs) })
}

// AllowIdentity takes that back, for certificates issued from now on.
func (s *Server) AllowIdentity(ctx context.Context, req *controlpb.AllowIdentityRequest) (*controlpb.AllowIdentityResponse, error) {
	resp := &controlpb.AllowIdentityResponse{}
	err := s.update(ctx, func(tx *raftstore.Tx) error {
		id, err := s.identity(tx, req.GetIdentity())
		if err != nil {
			return err
		}
		rec, err := pki.AllowIdentity(tx, id)
		if errors.Is(err, pki.ErrNotDenied) {
			return apierr.State("see `redoubt identity denied`", "identity %s is not revoked", id)
		}
		resp.Identity = deniedView(rec)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.c.Logger.InfoContext(ctx, "identity allowed again", "identity", resp.Identity.GetId())
	return resp, nil
}

// ListDenied lists the identities that are revoked, and those that were and of
// which older certificates may be about.
func (s *Server) ListDenied(ctx context.Context, _ *controlpb.ListDeniedRequest) (*controlpb.ListDeniedResponse, error) {
	resp := &controlpb.ListDeniedResponse{}
	err := s.view(ctx, func(r *raftstore.ReadTx) error {
		for rec := range pkistore.DeniedIdentities.All(r) {
			resp.Identities = append(resp.Identities, deniedView(rec))
		}
		return nil
	})
	slices.SortFunc(resp.Identities, func(a, b *controlpb.DeniedIdentityView) int { return cmp.Compare(a.GetId(), b.GetId()) })
	return resp, err
}

func deniedView(rec *pkipb.DeniedIdentity) *controlpb.DeniedIdentityView {
	return &controlpb.DeniedIdentityView{Id: rec.GetId(), DeniedAt: rec.GetDeniedAt(), AllowedAt: rec.GetAllowedAt()}
}

// GetCRLs returns the revocation lists of the CAs in force, once they name all that
// is revoked at this moment, and the last ones of workloads' CAs of before.
func (s *Server) GetCRLs(ctx context.Context, _ *controlpb.GetCRLsRequest) (*controlpb.GetCRLsResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	if err := s.c.Store.Barrier(ctx); err != nil {
		return nil, err
	}
	lists, err := pki.AwaitRevocationLists(ctx, s.c.Store)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, apierr.State("try again in a minute; the leader's log says what hinders it", "the revocation lists are not signed yet")
	}
	if err != nil {
		return nil, err
	}
	roots := map[string]bool{}
	if err := s.c.Store.View(func(r *raftstore.ReadTx) error {
		c, err := pkistore.GetCluster(r)
		for _, der := range slices.Concat(c.GetRoots(), c.GetFormerRoots()) {
			root, perr := x509.ParseCertificate(der)
			if perr != nil {
				return perr
			}
			roots[string(root.RawSubject)] = true
		}
		return err
	}); err != nil {
		return nil, err
	}
	resp := &controlpb.GetCRLsResponse{}
	for _, rec := range lists {
		list, err := x509.ParseRevocationList(rec.GetCrl())
		if err != nil {
			return nil, err
		}
		resp.Crls = append(resp.Crls, &controlpb.CRL{Issuer: list.Issuer.String(), Crl: rec.GetCrl(),
			Root: roots[string(list.RawIssuer)], Workload: rec.GetWorkload(), Former: rec.GetFormer()})
	}
	return resp, nil
}
