package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// Person is what a person's machine keeps: a certificate, its key, what is trusted and
// where managers are. It is not changed: a renewal makes another one.
type Person struct {
	Chain    *profilepb.CertificateChain
	Key      *ecdsa.PrivateKey
	Managers []string // host:port

	leaf  *x509.Certificate
	id    profile.Identity
	trust Trust
}

// NewPerson checks what was kept. roots are what is trusted beside the root that the
// chain ends in. The certificate may have ended.
func NewPerson(chain *profilepb.CertificateChain, key *ecdsa.PrivateKey, roots *pkipb.Roots, managers []string) (*Person, error) {
	certs, id, err := profile.ParsePersonChain(chain)
	if err != nil {
		return nil, err
	}
	if len(certs) < 3 {
		return nil, errors.New("certificate chain: the root is missing")
	}
	t := Trust{ClusterID: id.ClusterID, Roots: certs[len(certs)-1:], AnyIssuer: true}
	if err := t.keep(roots); err != nil {
		return nil, err
	}
	return newPerson(chain, key, t, managers)
}

// newPerson checks that the chain is a person's, verifies under trust, ends in one of
// its roots and belongs to key.
func newPerson(chain *profilepb.CertificateChain, key *ecdsa.PrivateKey, t Trust, managers []string) (*Person, error) {
	certs, id, err := profile.ParsePersonChain(chain)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(t.check(), CheckAddresses(managers)); err != nil {
		return nil, err
	}
	if _, err := t.verifyChain(certs, certs[0].NotAfter); err != nil {
		return nil, err
	}
	switch {
	case len(certs) < 3 || !slices.ContainsFunc(t.Roots, certs[len(certs)-1].Equal):
		return nil, errors.New("own certificate: its chain does not end in a trusted root")
	case !key.PublicKey.Equal(certs[0].PublicKey):
		return nil, errors.New("own certificate: the key is not its key")
	}
	return &Person{Chain: chain, Key: key, Managers: managers, leaf: certs[0], id: id, trust: t}, nil
}

// Name, ClusterID and NotAfter say whose certificate it is, of which cluster, and until when.
func (p *Person) Name() string        { return p.id.Person }
func (p *Person) ClusterID() string   { return p.id.ClusterID }
func (p *Person) NotAfter() time.Time { return p.leaf.NotAfter }

// Roots are what NewPerson wants back.
func (p *Person) Roots() *pkipb.Roots { return p.trust.Kept() }

// Due reports whether two thirds of the certificate's life are over.
func (p *Person) Due(now time.Time) bool {
	issued := p.leaf.NotBefore.Add(profile.Backdate)
	return now.After(issued.Add(p.leaf.NotAfter.Sub(issued) * 2 / 3))
}

// ClientConfig is for connections to managers.
func (p *Person) ClientConfig() *tls.Config {
	cfg := clientConfig(ALPNPerson, func(cs tls.ConnectionState) error {
		_, err := p.trust.verifyState(cs, ExpectServer(ALPNPerson, ""))
		return err
	})
	cert := &tls.Certificate{Certificate: p.Chain.GetCertificates(), PrivateKey: p.Key, Leaf: p.leaf}
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	return cfg
}

// Renew gets the next certificate over a connection that was made with this one.
func (p *Person) Renew(ctx context.Context, cc grpc.ClientConnInterface) (*Person, error) {
	key, csr, err := newRequest(nil)
	if err != nil {
		return nil, err
	}
	proof, err := profile.SignPersonRenew(p.Key, csr, p.leaf.Raw)
	if err != nil {
		return nil, err
	}
	resp, err := pkipb.NewPersonRenewalClient(cc).RenewPerson(ctx, &pkipb.RenewPersonRequest{Csr: csr, Proof: proof})
	if err != nil {
		return nil, err
	}
	next, err := p.succeededBy(resp, key)
	if err != nil {
		return nil, fmt.Errorf("the manager's answer is refused: %w", err)
	}
	return next, nil
}

func (p *Person) succeededBy(resp *pkipb.RenewPersonResponse, key *ecdsa.PrivateKey) (*Person, error) {
	t := p.trust
	said, err := parseRoots(resp.GetRoots())
	if err == nil && len(said.Roots) > 0 {
		if err = said.succeed(t); err == nil {
			t.Roots, t.Cross = said.Roots, said.Cross
		}
	}
	if err != nil {
		return nil, err
	}
	next, err := newPerson(resp.GetLeaf(), key, t, resp.GetManagers())
	if err != nil {
		return nil, err
	}
	if next.Name() != p.Name() || next.ClusterID() != p.ClusterID() {
		return nil, errors.New("the certificate is another person's")
	}
	return next, nil
}

// TakeInvitation makes a key and has the cluster certify it. As with a join, it trusts
// nobody but the holder of a manager's certificate under the root that is pinned, and
// shows the seed to nobody.
func TakeInvitation(ctx context.Context, inv Invitation) (*Person, error) {
	key, csr, err := newRequest(nil)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, addr := range inv.Managers() {
		p, final, err := takeAt(ctx, addr, inv, key, csr)
		if err == nil {
			return p, nil
		}
		if final || ctx.Err() != nil {
			return nil, err
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, errors.New("the invitation names no manager")
	}
	return nil, joinLines(errs)
}

func takeAt(ctx context.Context, addr string, inv Invitation, key *ecdsa.PrivateKey, csr []byte) (_ *Person, final bool, _ error) {
	var trust Trust
	conn, err := DialTLS(ctx, addr, clientConfig(ALPNGRPC, func(cs tls.ConnectionState) (err error) {
		if trust, err = joinTrust(inv.token, cs.PeerCertificates); err != nil {
			return err
		}
		_, err = trust.verifyState(cs, ExpectServer(ALPNGRPC, ""))
		return err
	}))
	if err != nil {
		return nil, false, err
	}
	cs := conn.ConnectionState()
	exporter, err := cs.ExportKeyingMaterial(profile.PersonExporterLabel, []byte(inv.ID()), profile.ExporterLen)
	if err != nil {
		conn.Close()
		return nil, false, err
	}
	cc, err := GRPCOver(conn, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxJoinReply)))
	if err != nil {
		return nil, false, err
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(ctx, joinCallTimeout)
	defer cancel()
	resp, err := pkipb.NewEnrolmentClient(cc).Enrol(ctx, &pkipb.EnrolRequest{InvitationId: inv.ID(), Csr: csr,
		Proof: inv.token.Sign(profile.EnrolProofInput(exporter, csr, inv.ID()))})
	switch status.Code(err) {
	case codes.PermissionDenied, codes.InvalidArgument, codes.Aborted:
		final = true // another manager would say the same
	}
	if err != nil {
		return nil, final, fmt.Errorf("%s: %w", addr, callError(err))
	}
	// Whom the pin vouches for may say what else the cluster trusts.
	if err = trust.keep(resp.GetRoots()); err == nil {
		var p *Person
		if p, err = newPerson(resp.GetLeaf(), key, trust, resp.GetManagers()); err == nil {
			return p, true, nil
		}
	}
	return nil, true, fmt.Errorf("%s: the manager's answer is refused: %w", addr, err)
}
