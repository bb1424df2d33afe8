package apiclient

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/internal/wire"
)

// Unlock's refusals.
var (
	// ErrWrongKey: nothing was changed.
	ErrWrongKey = errors.New("the key does not open this manager, nothing was changed: use the one printed by `redoubt init` or the last `redoubt unlock-key rotate`")
	// ErrTooMany: keyd wants a pause between wrong keys.
	ErrTooMany   = errors.New("too many wrong keys: wait a little, then try again")
	ErrNotLocked = errors.New("this manager is not locked: there is nothing to unlock")
	ErrNoKeyset  = errors.New("this node is no manager, so there is nothing to unlock: run `redoubt unlock` on a locked manager")
)

// ShareError is a share that opens nothing here, and why. Nothing was changed.
type ShareError struct{ why string }

func (e *ShareError) Error() string { return e.why + "; nothing was changed" }

// Keyd is a connection to keyd's unlock socket, which root alone may use.
type Keyd struct {
	path string
	wire *wire.Client
}

// NewKeyd returns a client of the unlock socket at path; it dials lazily.
func NewKeyd(path string) *Keyd { return &Keyd{path, wire.NewClient(path)} }

// Close drops the connection.
func (k *Keyd) Close() error { return k.wire.Close() }

// Locked returns nil when there is something to unlock, and otherwise says why
// there is not.
func (k *Keyd) Locked(ctx context.Context) error {
	resp, err := k.call(ctx, &keydpb.Request{Verb: &keydpb.Request_Status{Status: &keydpb.StatusRequest{}}})
	if err != nil {
		return err
	}
	switch s := resp.GetStatus().GetState(); s {
	case keydpb.LockState_LOCK_STATE_LOCKED:
		return nil
	case keydpb.LockState_LOCK_STATE_UNLOCKED:
		return ErrNotLocked
	case keydpb.LockState_LOCK_STATE_EMPTY:
		return ErrNoKeyset
	default:
		return fmt.Errorf("keyd is in the unknown state %d: this command is older than the node", s)
	}
}

// Unlock gives keyd the key.
func (k *Keyd) Unlock(ctx context.Context, key *autolock.OperatorKey) error {
	seed := key.Seed()
	defer clear(seed)
	_, err := k.call(ctx, &keydpb.Request{Verb: &keydpb.Request_Unlock{Unlock: &keydpb.UnlockRequest{Seed: seed}}})
	return err
}

// Credential is what people open a slot with: an operator key, or shares of one
// slot and no key.
type Credential struct {
	Key    *autolock.OperatorKey
	Shares []autolock.Share
}

// Wipe overwrites it.
func (c *Credential) Wipe() {
	if c.Key != nil {
		c.Key.Wipe()
	}
	for i := range c.Shares {
		c.Shares[i].Wipe()
	}
}

// give calls f with copies that are wiped after it.
func (c *Credential) give(f func(seed []byte, shares [][]byte) error) error {
	var seed []byte
	if c.Key != nil {
		seed = c.Key.Seed()
	}
	shares := make([][]byte, len(c.Shares))
	defer func() {
		clear(seed)
		for _, s := range shares {
			clear(s)
		}
	}()
	for i := range c.Shares {
		shares[i] = c.Shares[i].Bytes()
	}
	return f(seed, shares)
}

// OpenBackup checks a backup's head with a credential of its day and returns the
// key of its state; with restore keyd keeps what it found, for the node to restore
// from.
func (k *Keyd) OpenBackup(ctx context.Context, with *Credential, head []byte, restore bool) (stateKey []byte, err error) {
	err = with.give(func(seed []byte, shares [][]byte) error {
		resp, err := k.call(ctx, &keydpb.Request{Verb: &keydpb.Request_OpenBackup{OpenBackup: &keydpb.OpenBackupRequest{Seed: seed, Shares: shares, Head: head, Restore: restore}}})
		stateKey = resp.GetOpenBackup().GetStateKey()
		return err
	})
	return stateKey, err
}

// AuthorizeRecovery has keyd check a credential, unlock where that is needed, and
// allow one recovery.
func (k *Keyd) AuthorizeRecovery(ctx context.Context, with *Credential) error {
	return with.give(func(seed []byte, shares [][]byte) error {
		_, err := k.call(ctx, &keydpb.Request{Verb: &keydpb.Request_AuthorizeRecovery{AuthorizeRecovery: &keydpb.AuthorizeRecoveryRequest{Seed: seed, Shares: shares}}})
		return err
	})
}

func (k *Keyd) call(ctx context.Context, req *keydpb.Request) (*keydpb.Response, error) {
	resp := new(keydpb.Response)
	if err := k.wire.Call(ctx, req, resp); err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return nil, dialError(k.path, err)
		}
		return nil, apierr.New(apierr.ReasonUnreachable, "see the log of redoubt-keyd", "keyd did not answer: %v", err)
	}
	e := resp.GetError()
	if e == nil {
		return resp, nil
	}
	share := req.GetGiveShare() != nil || req.GetTestSlot().GetShare() != nil ||
		len(req.GetOpenBackup().GetShares())+len(req.GetAuthorizeRecovery().GetShares()) > 0
	switch e.Code {
	case keydpb.Code_CODE_STALE_EPOCH:
		return nil, &ShareError{e.Message}
	case keydpb.Code_CODE_WRONG_KEY:
		if share {
			return nil, &ShareError{e.Message}
		}
		return nil, ErrWrongKey
	case keydpb.Code_CODE_RATE_LIMITED:
		return nil, ErrTooMany
	case keydpb.Code_CODE_NOT_LOCKED:
		return nil, ErrNotLocked
	case keydpb.Code_CODE_EMPTY:
		return nil, ErrNoKeyset
	case keydpb.Code_CODE_INVALID:
		return nil, apierr.Invalid("", "%s", e.Message)
	case keydpb.Code_CODE_ALREADY, keydpb.Code_CODE_NO_TPM:
		return nil, apierr.State("", "%s", e.Message)
	case keydpb.Code_CODE_DENIED:
		return nil, apierr.Denied("", "keyd refused: %s", e.Message)
	}
	return nil, apierr.New(apierr.ReasonInternal, "see the log of redoubt-keyd", "keyd: %s", e.Message)
}
