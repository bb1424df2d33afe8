package pki

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// TokenRequest asks for a join token. ID and PublicKey come from whoever made
// the seed, which the cluster never sees.
type TokenRequest struct {
	ID        string
	PublicKey []byte
	Role      profilepb.Role
	TTL       time.Duration // 0: DefaultTokenTTL
	MaxUses   uint32        // 0: DefaultTokenUses
	NodeName  string
	CIDR      string
	Attest    bool // only a machine that proves its TPM
	Approve   bool // only a machine that an operator approves; managers only
	LongLived bool // neither expiry nor a number of uses; workers only
}

// ErrNoTPMs says that a token would ask for what no machine can prove.
var ErrNoTPMs = errors.New("a machine would have to prove its TPM, and none is believed")

// ErrInvalidToken is the cause of every refusal of a TokenRequest.
var ErrInvalidToken = errors.New("no such token can be made")

// record applies the defaults and bounds. keyd has bounds of its own.
func (q TokenRequest) record(clusterID string, now time.Time) (*profilepb.TokenRecord, error) {
	ttl, uses := q.TTL, q.MaxUses
	if ttl == 0 {
		ttl = DefaultTokenTTL
	}
	if uses == 0 {
		uses = DefaultTokenUses
	}
	r := &profilepb.TokenRecord{
		Id: q.ID, ClusterId: clusterID, PublicKey: q.PublicKey, Role: q.Role,
		MintedAt: now.Unix(), ExpiresAt: now.Add(ttl).Unix(), MaxUses: uses, NodeName: q.NodeName, Cidr: q.CIDR,
		Attest: q.Attest, Approve: q.Approve,
	}
	manager := q.Role == profilepb.Role_ROLE_MANAGER
	switch {
	case q.LongLived && (manager || q.TTL != 0 || q.MaxUses != 0):
		return nil, fmt.Errorf("%w: long-lived tokens are for workers and have neither a lifetime nor a number of uses", ErrInvalidToken)
	case q.LongLived:
		r.ExpiresAt, r.MaxUses = 0, 0
	case ttl < time.Second || ttl > MaxTokenTTL:
		return nil, fmt.Errorf("%w: a lifetime of %s is out of bounds, at most %s", ErrInvalidToken, ttl, MaxTokenTTL)
	case manager && ttl > MaxManagerTTL:
		return nil, fmt.Errorf("%w: a manager's token lives at most %s", ErrInvalidToken, MaxManagerTTL)
	case manager && uses != 1:
		return nil, fmt.Errorf("%w: a manager's token is good for one use", ErrInvalidToken)
	case uses > MaxTokenUses:
		return nil, fmt.Errorf("%w: at most %d uses are allowed", ErrInvalidToken, MaxTokenUses)
	}
	if err := profile.CheckTokenShape(r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidToken, err)
	}
	return r, nil
}

// BelievesTPMs reports whether there is any TPM that a machine could prove.
func BelievesTPMs(p *profilepb.AdmissionPolicy) bool {
	return len(p.GetEkAllowed())+len(p.GetEkCas()) > 0
}

// clusterNow is the time by which a token's life is measured: the machine's, or the
// cluster's, which may be ahead and never goes back.
func clusterNow(r *raftstore.ReadTx) time.Time {
	now := time.Now()
	if c := r.Clock(); c.After(now) {
		return c
	}
	return now
}

// CreateToken has a record signed and stores it.
func CreateToken(ctx context.Context, s Store, m TokenMinter, q TokenRequest) (*pkipb.Token, error) {
	var clusterID string
	var now time.Time
	err := s.View(func(r *raftstore.ReadTx) error {
		now = clusterNow(r)
		c, err := store.GetCluster(r)
		clusterID = c.GetClusterId()
		if p := c.GetAdmission(); err == nil && q.Attest && !BelievesTPMs(p) {
			return ErrNoTPMs
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	asked, err := q.record(clusterID, now)
	if err != nil {
		return nil, err
	}
	signed, err := m.MintToken(ctx, asked)
	if err != nil {
		return nil, fmt.Errorf("minting the token: %w", err)
	}
	got, err := profile.ParseTokenRecord(signed.GetRecord())
	if err != nil {
		return nil, fmt.Errorf("minting the token: %w", err)
	}
	asked.MintedAt = got.GetMintedAt()
	if !proto.Equal(asked, got) {
		return nil, errors.New("minting the token: the signed record is not the one asked for")
	}
	t := &pkipb.Token{Id: got.GetId(), Signed: signed}
	return t, s.Update(ctx, func(tx *raftstore.Tx) error {
		// A keyd that has not taken the next keyset over yet signs what is void.
		c, err := store.GetCluster(tx)
		if err != nil {
			return err
		}
		if _, err := PinnedRoot(c); err != nil {
			return err
		}
		if TokenVoid(c, t) {
			return ErrRotated
		}
		if err := pruneTokens(tx); err != nil {
			return err
		}
		return store.Tokens.Put(tx, t)
	})
}

// pruneTokens makes room: what can no longer be used goes a day after, some
// at a time. Its error says that there is none to make.
func pruneTokens(tx *raftstore.Tx) error {
	var gone []string
	count := 0
	before := tx.Now().Add(-24 * time.Hour).Unix()
	for t := range store.Tokens.All(tx) {
		count++
		r, err := profile.ParseTokenRecord(t.GetSigned().GetRecord())
		expired := err == nil && r.GetExpiresAt() != 0 && r.GetExpiresAt() < before
		revoked := t.GetRevoked() && t.GetMeta().GetUpdatedAt() < before*int64(time.Second)
		if (expired || revoked) && len(gone) < maxPruned {
			gone = append(gone, t.GetId())
		}
	}
	if count-len(gone) >= MaxTokens {
		return fmt.Errorf("there are %d join tokens already: revoke some with redoubt join-token revoke", count)
	}
	for _, id := range gone {
		if err := store.Tokens.Delete(tx, id); err != nil {
			return err
		}
	}
	return nil
}

// TokenInfo is a token as it may be shown.
type TokenInfo struct {
	Record *profilepb.TokenRecord
	Uses   uint32
	// Revoked by an operator, or by a rotation of the keys.
	Revoked bool
}

// ListTokens returns the tokens in the order of their minting.
func ListTokens(s interface {
	View(func(*raftstore.ReadTx) error) error
}) ([]TokenInfo, error) {
	var out []TokenInfo
	err := s.View(func(r *raftstore.ReadTx) error {
		c, _ := store.Cluster.Get(r, store.ClusterID)
		for t := range store.Tokens.All(r) {
			rec, err := profile.ParseTokenRecord(t.GetSigned().GetRecord())
			if err != nil {
				return fmt.Errorf("token %s: %w", t.GetId(), err)
			}
			out = append(out, TokenInfo{rec, t.GetUses(), t.GetRevoked() || c != nil && TokenVoid(c, t)})
		}
		return nil
	})
	slices.SortStableFunc(out, func(a, b TokenInfo) int { return int(a.Record.GetMintedAt() - b.Record.GetMintedAt()) })
	return out, err
}

// Usable reports whether somebody could join with a token.
func Usable(t *pkipb.Token, c *pkipb.Cluster, now time.Time) bool {
	rec, err := profile.ParseTokenRecord(t.GetSigned().GetRecord())
	return err == nil && !t.GetRevoked() && !TokenVoid(c, t) && profile.CheckToken(rec, c.GetClusterId(), now) == nil &&
		(rec.GetMaxUses() == 0 || t.GetUses() < rec.GetMaxUses())
}

// ErrNoToken says that an id or prefix names no token, or several.
var ErrNoToken = errors.New("no such join token: see redoubt join-token ls")

// RevokeToken revokes the token of that id, or of that unique prefix of one,
// and returns its id. Revoking a revoked token changes nothing.
func RevokeToken(ctx context.Context, s Store, idOrPrefix string) (string, error) {
	if len(idOrPrefix) < ident.MinPrefix || len(idOrPrefix) > ident.Len {
		return "", fmt.Errorf("%w (give its id or at least the first %d characters)", ErrNoToken, ident.MinPrefix)
	}
	var id string
	err := s.Update(ctx, func(tx *raftstore.Tx) error {
		var found *pkipb.Token
		for t := range store.Tokens.Prefix(tx, idOrPrefix) {
			if found != nil {
				return fmt.Errorf("%w (%q is the beginning of several)", ErrNoToken, idOrPrefix)
			}
			found = t
		}
		if found == nil {
			return ErrNoToken
		}
		id = found.GetId()
		if found.GetRevoked() {
			return nil
		}
		found = proto.CloneOf(found)
		found.Revoked = true
		return store.Tokens.Put(tx, found)
	})
	return id, err
}
