package pki

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// Promotion is what a worker has to keep to become a manager.
type Promotion struct {
	Leaf         *profilepb.CertificateChain
	Key          *ecdsa.PrivateKey
	Boot         *profilepb.CertificateChain
	BootKey      *ecdsa.PrivateKey
	SealedKeyset []byte
	Slots        []byte
	Managers     []*pkipb.Manager
	Incarnation  uint64
}

// RequestPromotion is a worker's first call: certificates for keydKey's node and
// the keyset. Nothing in the cluster has changed when it returns. level is what
// this version understands of a manager's store.
func (c *Credentials) RequestPromotion(ctx context.Context, client pkipb.MembershipClient, keydKey []byte, level uint32, t TPM) (*Promotion, error) {
	old, oldKey := c.current()
	p := new(Promotion)
	req := &pkipb.PromoteRequest{StoreLevel: level}
	var err error
	if p.Key, req.Csr, err = newRequest(keydKey); err != nil {
		return nil, err
	}
	if p.BootKey, req.BootCsr, err = newRequest(nil); err != nil {
		return nil, err
	}
	if req.Proof, err = profile.SignPromotionProof(oldKey, req.Csr, req.BootCsr, old.Raw); err != nil {
		return nil, err
	}
	if req.Evidence, err = c.vouched(ctx, t, TPM.Promote, profile.PromotionProofInput(req.Csr, req.BootCsr, old.Raw)); err != nil {
		return nil, err
	}
	resp, err := client.Promote(ctx, req)
	if err != nil {
		return nil, err
	}
	p.Leaf, p.Boot, p.SealedKeyset, p.Slots, p.Managers = resp.GetLeaf(), resp.GetBoot(), resp.GetSealedKeyset(), resp.GetSlots(), resp.GetManagers()
	p.Incarnation = resp.GetIncarnation()
	if err := c.checkPromotion(p); err != nil {
		return nil, fmt.Errorf("the manager's answer is refused: %w", err)
	}
	return p, nil
}

func (c *Credentials) checkPromotion(p *Promotion) error {
	if err := c.checkIssued(p.Leaf, p.Key, profilepb.Role_ROLE_MANAGER); err != nil {
		return err
	}
	if err := c.checkIssued(p.Boot, p.BootKey, profilepb.Role_ROLE_BOOT); err != nil {
		return err
	}
	if len(p.SealedKeyset) == 0 || len(p.Slots) == 0 || len(p.Managers) == 0 {
		return errors.New("the keyset, the unlock slots or the managers are missing")
	}
	return checkManagers(p.Managers)
}

// checkIssued refuses certificates that are not this node's, of that role.
func (c *Credentials) checkIssued(chain *profilepb.CertificateChain, key *ecdsa.PrivateKey, role profilepb.Role) error {
	s, err := newState(chain, key, c.Trust())
	if err != nil {
		return err
	}
	if s.id.NodeID != c.Identity().NodeID || s.id.Role != role {
		return errors.New("a certificate is of another node or role")
	}
	return nil
}

// RequestDemotion gives the holder of a manager leaf, who was demoted, its
// worker leaf.
func (c *Credentials) RequestDemotion(ctx context.Context, client pkipb.MembershipClient, t TPM) (*profilepb.CertificateChain, *ecdsa.PrivateKey, error) {
	old, oldKey := c.current()
	key, csr, err := newRequest(nil)
	if err != nil {
		return nil, nil, err
	}
	proof, err := profile.SignRenewProof(oldKey, csr, nil, old.Raw)
	if err != nil {
		return nil, nil, err
	}
	evidence, err := c.vouched(ctx, t, TPM.Renew, profile.RenewProofInput(csr, nil, old.Raw))
	if err != nil {
		return nil, nil, err
	}
	resp, err := client.Demoted(ctx, &pkipb.DemotedRequest{Csr: csr, Proof: proof, Evidence: evidence})
	if err != nil {
		return nil, nil, err
	}
	// A manager that was away does not know the issuer in force: what it keeps is
	// a worker's, which trusts what its root signed.
	trust := c.Trust()
	trust.AnyIssuer = true
	s, err := newState(resp.GetLeaf(), key, trust)
	if err != nil {
		return nil, nil, fmt.Errorf("the manager's answer is refused: %w", err)
	}
	if s.id.NodeID != c.Identity().NodeID || s.id.Role != profilepb.Role_ROLE_WORKER {
		return nil, nil, errors.New("the manager's answer is refused: it is of another node or role")
	}
	return resp.GetLeaf(), key, nil
}
