package control

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// CreateToken has keyd sign the record of a token whose seed the caller keeps.
func (s *Server) CreateToken(ctx context.Context, req *controlpb.CreateTokenRequest) (*controlpb.CreateTokenResponse, error) {
	if most := int64(pki.MaxTokenTTL / time.Second); req.GetTtlSeconds() < 0 || req.GetTtlSeconds() > most {
		return nil, apierr.Invalid("", "a lifetime of %d seconds is out of bounds: at most %d (%d days)", req.GetTtlSeconds(), most, most/86400)
	}
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	mint := func() (*pkipb.Token, error) {
		return pki.CreateToken(ctx, s.c.Store, s.c.Minter, pki.TokenRequest{ID: req.GetId(), PublicKey: req.GetPublicKey(), Role: req.GetRole(),
			TTL: time.Duration(req.GetTtlSeconds()) * time.Second, MaxUses: req.GetMaxUses(), NodeName: req.GetNodeName(), CIDR: req.GetCidr(),
			LongLived: req.GetLongLived(), Attest: req.GetAttest(), Approve: req.GetApprove()})
	}
	tok, err := mint()
	overtaken := func() bool { return errors.Is(err, pki.ErrRotated) || errors.Is(err, pki.ErrRotating) }
	for try := 0; overtaken() && try < mintTries && pause(ctx, mintPause); try++ {
		tok, err = mint()
	}
	if errors.Is(err, pki.ErrRotating) {
		return nil, apierr.State("wait until every node trusts both: `redoubt ca rotate --watch` shows how far it is", "a root is being replaced already")
	}
	if errors.Is(err, pki.ErrRotated) {
		return nil, apierr.State("try again in a few seconds", "the leader has not taken over the cluster's new keys yet")
	}
	if errors.Is(err, pki.ErrNoTPMs) {
		return nil, apierr.State("allow one first: `redoubt admission set --allow HASH`, or --ek-ca FILE", "%v", err)
	}
	if errors.Is(err, pki.ErrInvalidToken) {
		return nil, apierr.Invalid("", "%v", err)
	}
	if keydclient.CodeOf(err) == keydpb.Code_CODE_RATE_LIMITED {
		return nil, apierr.State("try again in half a minute", "join tokens were made, or managers' keys given, too often just now")
	}
	if err != nil {
		return nil, err
	}
	resp := &controlpb.CreateTokenResponse{ClusterId: s.c.ClusterID}
	if resp.Token, err = tokenView(tok); err != nil {
		return nil, err
	}
	err = s.c.Store.View(func(r *raftstore.ReadTx) error {
		c, err := pkistore.GetCluster(r)
		if err != nil {
			return err
		}
		der, err := pki.PinnedRoot(c)
		if err != nil {
			return apierr.State("try again in a few seconds", "a root is being replaced since just now")
		}
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(root.RawSubjectPublicKeyInfo)
		resp.RootSpkiSha256 = sum[:]
		for n := range pkistore.Nodes.By(r, "role", "manager") {
			if !n.GetDenied() {
				resp.Managers = append(resp.Managers, n.GetAddress())
			}
		}
		return nil
	})
	s.c.Logger.InfoContext(ctx, "join token minted", "token", tok.GetId(), "role", profile.RoleName(req.GetRole()))
	return resp, err
}

// pause waits for d and reports whether there is time left.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func tokenView(t *pkipb.Token) (*controlpb.TokenView, error) {
	rec, err := profile.ParseTokenRecord(t.GetSigned().GetRecord())
	return &controlpb.TokenView{Record: rec, Uses: t.GetUses(), Revoked: t.GetRevoked()}, err
}

// longLived reports whether a token neither expired nor will.
func longLived(t *pkipb.Token) bool {
	rec, err := profile.ParseTokenRecord(t.GetSigned().GetRecord())
	return err == nil && rec.GetExpiresAt() == 0 && !t.GetRevoked()
}

// ListTokens returns the tokens' public records.
func (s *Server) ListTokens(ctx context.Context, _ *controlpb.ListTokensRequest) (*controlpb.ListTokensResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	if err := s.c.Store.Barrier(ctx); err != nil {
		return nil, err
	}
	tokens, err := pki.ListTokens(s.c.Store)
	resp := &controlpb.ListTokensResponse{}
	for _, t := range tokens {
		resp.Tokens = append(resp.Tokens, &controlpb.TokenView{Record: t.Record, Uses: t.Uses, Revoked: t.Revoked})
	}
	return resp, err
}

// RevokeToken makes a token good for nothing.
func (s *Server) RevokeToken(ctx context.Context, req *controlpb.RevokeTokenRequest) (*controlpb.RevokeTokenResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	id, err := pki.RevokeToken(ctx, s.c.Store, req.GetId())
	if errors.Is(err, pki.ErrNoToken) {
		return nil, apierr.NotFound("", "%v", err)
	}
	if err == nil {
		s.c.Logger.InfoContext(ctx, "join token revoked", "token", id)
	}
	return &controlpb.RevokeTokenResponse{Id: id}, err
}
