package control

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// InvitePerson has keyd sign an invitation whose seed the caller keeps.
func (s *Server) InvitePerson(ctx context.Context, req *controlpb.InvitePersonRequest) (*controlpb.InvitePersonResponse, error) {
	for _, seconds := range []int64{req.GetTtlSeconds(), req.GetLifeSeconds()} {
		if most := int64(pki.MaxInvitationTTL / time.Second); seconds < 0 || seconds > most {
			return nil, apierr.Invalid("", "a lifetime of %d seconds is out of bounds: at most %d (%d days)", seconds, most, most/86400)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	by := "root on a manager"
	if caller, ok := authz.FromContext(ctx); ok {
		by = caller.String()
	}
	q := pki.Invite{Name: req.GetName(), ID: req.GetId(), PublicKey: req.GetPublicKey(), By: by,
		TTL: time.Duration(req.GetTtlSeconds()) * time.Second, Life: time.Duration(req.GetLifeSeconds()) * time.Second,
		May: func(r raftstore.Reader) error { return roles.MayInvite(r, req.GetName()) }}
	resp := &controlpb.InvitePersonResponse{ClusterId: s.c.ClusterID}
	invite := func() (err error) {
		resp.Record, resp.Replaces, err = pki.InvitePerson(ctx, s.c.Store, s.c.Inviter, q)
		return err
	}
	err := invite()
	for try := 0; errors.Is(err, pki.ErrRotated) && try < mintTries && pause(ctx, mintPause); try++ {
		err = invite()
	}
	if err != nil {
		return nil, personRefusal(req.GetName(), err)
	}
	err = s.c.Store.View(func(r *raftstore.ReadTx) error {
		c, err := pkistore.GetCluster(r)
		if err != nil {
			return err
		}
		der, err := pki.PinnedRoot(c)
		if err != nil {
			return personRefusal(req.GetName(), err)
		}
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		resp.RootSpkiSha256, resp.Managers = profile.SPKIHash(root), pki.ManagerAddresses(r)
		return nil
	})
	s.c.Logger.InfoContext(ctx, "a person was invited", "person", req.GetName(), "invitation", req.GetId(), "by", by)
	return resp, err
}

// personRefusal is what the caller is told of an error about a person.
func personRefusal(name string, err error) error {
	switch {
	case errors.Is(err, pki.ErrInvalidInvitation):
		return apierr.Invalid("", "%v", err)
	case errors.Is(err, pki.ErrNoPerson):
		return apierr.NotFound("see `redoubt person ls`", "no person %q", name)
	case errors.Is(err, pki.ErrPersonRevoked):
		return apierr.State("`redoubt person rm "+name+"` first if that is meant", "person %s was revoked", name)
	case errors.Is(err, pki.ErrManyPeople):
		return apierr.State("", "%v", err)
	case errors.Is(err, pki.ErrRotating):
		return apierr.State("wait until every node trusts both: `redoubt ca rotate --watch` shows how far it is", "a root is being replaced")
	case errors.Is(err, pki.ErrRotated):
		return apierr.State("try again in a few seconds", "the leader has not taken over the cluster's new keys yet")
	case keydclient.CodeOf(err) == keydpb.Code_CODE_RATE_LIMITED:
		return apierr.State("try again in half a minute", "tokens and invitations were made too often just now")
	}
	return err
}

// ListPeople tells who there is.
func (s *Server) ListPeople(ctx context.Context, _ *controlpb.ListPeopleRequest) (*controlpb.ListPeopleResponse, error) {
	resp := &controlpb.ListPeopleResponse{}
	err := s.view(ctx, func(r *raftstore.ReadTx) error {
		c, err := pkistore.GetCluster(r)
		if err != nil {
			return err
		}
		for p := range pkistore.People.All(r) {
			v := &controlpb.PersonView{Name: p.GetId(), Denied: p.GetDenied(), CertificateEnds: p.GetLeafNotAfter(),
				LifeSeconds: p.GetLifeSeconds(), InvitedBy: p.GetInvitedBy()}
			if rec := pki.InvitationOpen(c, p, time.Now()); rec != nil {
				v.InvitationEnds, v.LifeSeconds = rec.GetExpiresAt(), cmp.Or(v.LifeSeconds, rec.GetLifeSeconds())
			}
			resp.People = append(resp.People, v)
		}
		return nil
	})
	slices.SortFunc(resp.People, func(a, b *controlpb.PersonView) int { return cmp.Compare(a.Name, b.Name) })
	return resp, err
}

// RevokePerson denies a person.
func (s *Server) RevokePerson(ctx context.Context, req *controlpb.RevokePersonRequest) (*controlpb.RevokePersonResponse, error) {
	by, err := whoCalls(ctx)
	if err != nil {
		return nil, err
	}
	err = s.update(ctx, func(tx *raftstore.Tx) error {
		if err := roles.MayLose(tx, by, req.GetName()); err != nil {
			return err
		}
		return pki.RevokePerson(tx, req.GetName())
	})
	if err == nil {
		s.c.Logger.InfoContext(ctx, "a person was revoked", "person", req.GetName())
	}
	return &controlpb.RevokePersonResponse{Name: req.GetName()}, personRefusal(req.GetName(), err)
}

// RemovePerson forgets a person.
func (s *Server) RemovePerson(ctx context.Context, req *controlpb.RemovePersonRequest) (*controlpb.RemovePersonResponse, error) {
	by, err := whoCalls(ctx)
	if err != nil {
		return nil, err
	}
	err = s.update(ctx, func(tx *raftstore.Tx) error {
		if err := roles.MayLose(tx, by, req.GetName()); err != nil {
			return err
		}
		if err := pki.RemovePerson(tx, req.GetName()); err != nil {
			return err
		}
		if err := forgetApprover(tx, req.GetName()); err != nil {
			return err
		}
		return roles.Forget(tx, req.GetName())
	})
	if err == nil {
		s.c.Logger.InfoContext(ctx, "a person was removed", "person", req.GetName())
	}
	return &controlpb.RemovePersonResponse{Name: req.GetName()}, personRefusal(req.GetName(), err)
}

// WhoAmI says who the caller is, as the connection proves it.
func (s *Server) WhoAmI(ctx context.Context, _ *controlpb.WhoAmIRequest) (*controlpb.WhoAmIResponse, error) {
	caller, ok := authz.FromContext(ctx)
	if !ok {
		return nil, apierr.Denied("", "the caller is not known")
	}
	resp := &controlpb.WhoAmIResponse{Person: caller.Person, ClusterId: s.c.ClusterID, Description: caller.String()}
	switch {
	case caller.Person != "":
		resp.Id = profile.PersonURI(s.c.ClusterID, caller.Person).String()
		certs, _, err := profile.ParsePersonChain(&profilepb.CertificateChain{Certificates: caller.Chain})
		if err != nil {
			return nil, err
		}
		resp.CertificateEnds = certs[0].NotAfter.Unix()
		if caller.Source != nil {
			resp.Source = caller.Source.String()
			if host, _, err := net.SplitHostPort(resp.Source); err == nil {
				resp.Source = host
			}
		}
	default:
		if node := self(ctx); node != "" {
			resp.Id = profile.NodeURI(s.c.ClusterID, node).String()
		}
	}
	return resp, nil
}
