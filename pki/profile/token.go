package profile

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// ErrTokenExpired is CheckToken's refusal of a token past its time.
var ErrTokenExpired = errors.New("the join token has expired: make a new one with redoubt join-token")

// CheckToken returns an error unless r is a well-formed record of a token of
// that cluster that has not expired. Whether it was revoked or used up only
// the store knows.
func CheckToken(r *profilepb.TokenRecord, clusterID string, now time.Time) error {
	if err := CheckTokenShape(r); err != nil {
		return err
	}
	switch {
	case r.GetClusterId() != clusterID:
		return errors.New("the join token is of another cluster")
	case time.Unix(r.GetMintedAt(), 0).After(now.Add(MaxSkew)):
		return errors.New("the join token was minted in the future: check the clocks")
	case r.GetExpiresAt() != 0 && !now.Before(time.Unix(r.GetExpiresAt(), 0)):
		return ErrTokenExpired
	}
	return nil
}

// CheckTokenShape is the part of CheckToken that depends on nothing outside.
func CheckTokenShape(r *profilepb.TokenRecord) error {
	switch {
	case !ident.Valid(r.GetId()):
		return errors.New("token record: malformed id")
	case !ident.Valid(r.GetClusterId()):
		return errors.New("token record: malformed cluster id")
	case len(r.GetPublicKey()) != ed25519.PublicKeySize:
		return fmt.Errorf("token record: the public key is %d bytes, not %d", len(r.GetPublicKey()), ed25519.PublicKeySize)
	case r.GetRole() != profilepb.Role_ROLE_WORKER && r.GetRole() != profilepb.Role_ROLE_MANAGER:
		return errors.New("token record: the role must be worker or manager")
	case r.GetMintedAt() <= 0:
		return errors.New("token record: it has no time of minting")
	case r.GetExpiresAt() != 0 && r.GetExpiresAt() <= r.GetMintedAt():
		return errors.New("token record: it expires before it was minted")
	case (r.GetExpiresAt() == 0) != (r.GetMaxUses() == 0):
		return errors.New("token record: only a long-lived token has neither expiry nor a number of uses")
	}
	if r.GetApprove() && r.GetRole() != profilepb.Role_ROLE_MANAGER {
		return errors.New("token record: only a manager waits for an approval")
	}
	if name := r.GetNodeName(); name != "" {
		if err := ident.CheckHostname(name); err != nil {
			return fmt.Errorf("token record: %w", err)
		}
	}
	if c := r.GetCidr(); c != "" {
		p, err := netip.ParsePrefix(c)
		if err != nil || p.Masked().String() != c {
			return errors.New("token record: the CIDR is not a canonical prefix such as 192.0.2.0/24")
		}
	}
	return nil
}

// ParseTokenRecord decodes a serialized record strictly.
func ParseTokenRecord(record []byte) (*profilepb.TokenRecord, error) {
	if len(record) > MaxTokenRecord {
		return nil, fmt.Errorf("token record is larger than %d bytes", MaxTokenRecord)
	}
	r := new(profilepb.TokenRecord)
	if err := proto.Unmarshal(record, r); err != nil || len(r.ProtoReflect().GetUnknown()) > 0 {
		return nil, errors.New("token record is malformed")
	}
	return r, CheckTokenShape(r)
}

// OpenTokenRecord verifies keyd's signature over a record and decodes it.
func OpenTokenRecord(key ed25519.PublicKey, s *profilepb.SignedTokenRecord) (*profilepb.TokenRecord, error) {
	if len(s.GetRecord()) > MaxTokenRecord || !ed25519.Verify(key, TokenSigningInput(s.GetRecord()), s.GetSignature()) {
		return nil, errors.New("token record: the signature does not verify")
	}
	return ParseTokenRecord(s.GetRecord())
}
