package node

import (
	"context"
	"fmt"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// Confirm implements raftstore.Clock: this manager may lead where a majority of
// the voters told their time and its own is not far from the median. What was
// compared a moment ago is enough, so that a lost leader is replaced without
// waiting for anybody.
func (c *clocks) Confirm(ctx context.Context) (successor string, err error) {
	select {
	case <-c.opened:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if c.stale(clockFresh) || c.mayLead() != nil {
		c.compare(ctx, leadPatience)
	}
	if err := c.mayLead(); err != nil {
		return c.fitter(), err
	}
	return "", nil
}

// Now implements raftstore.Clock: the time that the last comparison found
// good, and what passed since by the clock that nobody can set. A clock that is
// set under way stamps nothing before it is compared.
func (c *clocks) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.anchor.IsZero() {
		return time.Now()
	}
	return c.anchor.Add(time.Since(c.anchor))
}

// mayLead returns why this manager may not lead, or sign, now.
func (c *clocks) mayLead() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	switch off := c.leadOffset(); {
	case off.Abs() > maxSkew:
		return fmt.Errorf("%s: it may not lead", describeOffset(off))
	case c.anchor.IsZero():
		return fmt.Errorf("no majority of the managers told its time: it may not lead")
	case jump(c.anchor, now).Abs() > maxSkew:
		return fmt.Errorf("the clock of this manager moved by %v, and no majority of the managers confirmed it: it may not lead; check its time service", jump(c.anchor, now).Round(100*time.Millisecond))
	}
	return nil
}

// fitter is another manager whose clock is near the median, if any is.
func (c *clocks) fitter() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.sorted()
	median := all[(len(all)-1)/2].ahead
	best, least := "", maxSkew
	for id, s := range c.samples {
		if d := (s.ahead - median).Abs(); d < least {
			best, least = id, d
		}
	}
	return best
}

// untilWrong returns an error when this manager may not lead any more.
func (c *clocks) untilWrong(ctx context.Context) error {
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if err := c.mayLead(); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// timedSigner signs only while this manager's clock is one to lead by: keyd dates
// what it signs by the same clock.
type timedSigner struct {
	signer
	fit func() error
	// newest reports whether keyd has the cluster's keyset in force.
	newest func() bool
}

func (s timedSigner) check() error {
	if err := s.fit(); err != nil {
		return fmt.Errorf("nothing is signed: %w", err)
	}
	return nil
}

func (s timedSigner) MintToken(ctx context.Context, record *profilepb.TokenRecord) (*profilepb.SignedTokenRecord, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	return s.signer.MintToken(ctx, record)
}

func (s timedSigner) MintInvitation(ctx context.Context, record *profilepb.InvitationRecord) (*profilepb.SignedInvitation, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	return s.signer.MintInvitation(ctx, record)
}

func (s timedSigner) SignPerson(ctx context.Context, r pki.SignPerson) (*profilepb.CertificateChain, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	return s.signer.SignPerson(ctx, r)
}

func (s timedSigner) SignJoin(ctx context.Context, r pki.SignJoin) (pki.Issued, error) {
	if err := s.check(); err != nil {
		return pki.Issued{}, err
	}
	return s.signer.SignJoin(ctx, r)
}

func (s timedSigner) Challenge(ctx context.Context, r pki.Challenge) (*profilepb.TPMCredential, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	return s.signer.Challenge(ctx, r)
}

func (s timedSigner) SignRenew(ctx context.Context, r pki.SignRenew) (pki.Issued, error) {
	if err := s.check(); err != nil {
		return pki.Issued{}, err
	}
	return s.signer.SignRenew(ctx, r)
}

func (s timedSigner) SignPromotion(ctx context.Context, r pki.SignRenew) (pki.Issued, error) {
	if err := s.check(); err != nil {
		return pki.Issued{}, err
	}
	return s.signer.SignPromotion(ctx, r)
}

func (s timedSigner) SignDemotion(ctx context.Context, r pki.SignRenew) (pki.Issued, error) {
	if err := s.check(); err != nil {
		return pki.Issued{}, err
	}
	return s.signer.SignDemotion(ctx, r)
}

func (s timedSigner) RotateKeyset(ctx context.Context, stay, retired [][]byte) (*keydpb.RotateKeysetResponse, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	return s.signer.RotateKeyset(ctx, stay, retired)
}

func (s timedSigner) RotateCA(ctx context.Context, change keydpb.CAChange, external *keydpb.External, managers [][]byte) (*keydpb.RotateCAResponse, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	return s.signer.RotateCA(ctx, change, external, managers)
}

// WorkloadCA names none while keyd has an older keyset than the cluster: it would be
// the one of before.
func (s timedSigner) WorkloadCA(ctx context.Context) ([]byte, error) {
	if !s.newest() {
		return nil, pki.ErrRotated
	}
	return s.signer.WorkloadCA(ctx)
}

// SealKeyset seals nothing while keyd has an older keyset than the cluster: a new
// manager would never get the next one.
func (s timedSigner) SealKeyset(ctx context.Context, manager *profilepb.CertificateChain) ([]byte, error) {
	if !s.newest() {
		return nil, pki.ErrRotated
	}
	return s.signer.SealKeyset(ctx, manager)
}
