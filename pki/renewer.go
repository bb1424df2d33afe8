package pki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// Renewed is what a renewal brought; Boot and BootKey are nil where the boot
// leaf was not due.
type Renewed struct {
	Leaf    *profilepb.CertificateChain
	Key     *ecdsa.PrivateKey
	Boot    *profilepb.CertificateChain
	BootKey *ecdsa.PrivateKey
}

// Renewer keeps a node's certificate fresh.
type Renewer struct {
	Credentials *Credentials
	// Boot is a manager's boot credentials, renewed along when past half of
	// their life; nil on workers.
	Boot *Credentials
	// Call carries the request to the leader over a connection that showed the
	// certificate oldLeaf (the present one; a change meanwhile fails the proof).
	Call func(ctx context.Context, req *pkipb.RenewRequest) (*pkipb.RenewResponse, error)
	// TPM is this machine's; it is asked where the certificate names one.
	TPM TPM
	// Persist writes what came, durably, before it is used.
	Persist func(ctx context.Context, r Renewed) error
	// Expired, on managers, replaces the certificate where it has ended, as a
	// machine that slept finds it: nobody renews an ended one of a manager's.
	Expired func(ctx context.Context) error
	// Roots takes what a manager says of the roots, before what it issued is looked
	// at. Nil: they are learned otherwise.
	Roots  func(*pkipb.Roots) error
	Logger *slog.Logger

	mu sync.Mutex // one renewal at a time
}

// Now renews at once: the issuing CA was replaced by the one with that SHA-256.
func (r *Renewer) Now(ctx context.Context, issuer []byte) error { return r.once(ctx, issuer) }

// Run renews at a random point between 50 and 80 % of each certificate's life
// and tries again after failures, until ctx ends. It goes on after the
// certificate expired: a manager may still accept a worker's.
func (r *Renewer) Run(ctx context.Context) error {
	for {
		at := renewAt(r.Credentials.Leaf(), rand.Float64())
		if err := waitUntil(ctx, at, time.Now); err != nil {
			return nil
		}
		for backoff := renewBackoffMin; ; backoff = min(2*backoff, renewBackoffMax) {
			err := r.once(ctx, nil)
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				break
			}
			r.Logger.Warn("renewing the certificate failed", "error", err,
				"not_after", r.Credentials.Leaf().NotAfter, "retry_in", backoff)
			// Jitter, so that nodes that failed together do not return together.
			wait := backoff/2 + time.Duration(rand.Int64N(int64(backoff)))
			if err := pause(ctx, wait); err != nil {
				return nil
			}
		}
	}
}

// renewAt places the renewal; share is uniform in [0, 1).
func renewAt(leaf *x509.Certificate, share float64) time.Time {
	issued := leaf.NotBefore.Add(profile.Backdate)
	life := leaf.NotAfter.Sub(issued)
	return issued.Add(time.Duration(float64(life) * (renewFrom + share*(renewUntil-renewFrom))))
}

// waitUntil waits for a time of the wall clock, by which certificates expire.
// Timers run on another clock, which stands still while a machine sleeps and
// knows nothing of a clock that was set: so it looks again now and then.
func waitUntil(ctx context.Context, t time.Time, now func() time.Time) error {
	for {
		left := t.Sub(now().Round(0)) // Round drops the reading of the other clock
		if left <= 0 {
			return ctx.Err()
		}
		if err := pause(ctx, min(left, clockCheck)); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// once is one renewal: request, check, persist, use.
func (r *Renewer) once(ctx context.Context, issuer []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	if r.Expired != nil && time.Now().After(r.Credentials.Leaf().NotAfter) {
		return r.Expired(ctx)
	}
	var got Renewed
	req, err := r.request(ctx, &got, issuer)
	if err != nil {
		return err
	}
	resp, err := r.Call(ctx, req)
	if err != nil {
		return err
	}
	if r.Roots != nil {
		if err := r.Roots(resp.GetRoots()); err != nil {
			return fmt.Errorf("the manager's answer is refused: %w", err)
		}
	}
	got.Leaf, got.Boot = resp.GetLeaf(), resp.GetBoot()
	if err := r.check(&got); err != nil {
		return fmt.Errorf("the manager's answer is refused: %w", err)
	}
	if err := r.Persist(ctx, got); err != nil {
		return fmt.Errorf("the new certificate cannot be kept: %w", err)
	}
	if err := r.Credentials.SetLeaf(got.Leaf, got.Key); err != nil {
		return err
	}
	if got.Boot != nil {
		if err := r.Boot.SetLeaf(got.Boot, got.BootKey); err != nil {
			return err
		}
	}
	r.Logger.Info("renewed the certificate", "not_after", r.Credentials.Leaf().NotAfter)
	return nil
}

func (r *Renewer) request(ctx context.Context, got *Renewed, issuer []byte) (*pkipb.RenewRequest, error) {
	leaf, key := r.Credentials.current()
	req := new(pkipb.RenewRequest)
	var err error
	if got.Key, req.Csr, err = newRequest(r.Credentials.Identity().KeydKey); err != nil {
		return nil, err
	}
	other := issuer != nil && r.Boot != nil && !bytes.Equal(r.Boot.IssuerHash(), issuer)
	if r.Boot != nil && (other || time.Now().After(renewAt(r.Boot.Leaf(), 0)) || r.Boot.outdated()) {
		if got.BootKey, req.BootCsr, err = newRequest(nil); err != nil {
			return nil, err
		}
	}
	if req.Proof, err = profile.SignRenewProof(key, req.Csr, req.BootCsr, leaf.Raw); err != nil {
		return nil, err
	}
	req.Evidence, err = r.Credentials.vouched(ctx, r.TPM, TPM.Renew, profile.RenewProofInput(req.Csr, req.BootCsr, leaf.Raw))
	return req, err
}

// check refuses, before anything is written, what could not be used.
func (r *Renewer) check(got *Renewed) error {
	if _, err := newState(got.Leaf, got.Key, r.Credentials.Trust()); err != nil {
		return err
	}
	if (got.Boot != nil) != (got.BootKey != nil) {
		return errors.New("it has a boot leaf that was not asked for, or lacks the one that was")
	}
	if got.Boot == nil {
		return nil
	}
	_, err := newState(got.Boot, got.BootKey, r.Boot.Trust())
	return err
}

// newRequest makes a key and the request for its certificate.
func newRequest(keydKey []byte) (*ecdsa.PrivateKey, []byte, error) {
	key, err := NewKey()
	if err != nil {
		return nil, nil, err
	}
	csr, err := profile.NewCSR(crypto.Signer(key), keydKey)
	return key, csr, err
}
