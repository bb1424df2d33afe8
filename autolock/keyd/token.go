package keyd

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// mintToken signs a token record. That there shall be a token is redoubtd's
// word; what a token may be is decided here.
func (s *Server) mintToken(req *keydpb.MintTokenRequest) (*keydpb.MintTokenResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if req.GetRecord() == nil {
		return nil, invalid("the request has no token record")
	}
	rec := proto.CloneOf(req.GetRecord())
	if id := rec.GetClusterId(); id != "" && id != opened.keyset.clusterID {
		return nil, denied("the token record is of another cluster")
	}
	rec.ClusterId, rec.MintedAt = opened.keyset.clusterID, now.Unix()
	if err := profile.CheckTokenShape(rec); err != nil {
		return nil, invalid("%v", err)
	}
	if err := checkTokenBounds(rec, now); err != nil {
		return nil, err
	}
	if err := s.mints.check(mintRate, now); err != nil {
		return nil, err
	}
	if rec.GetRole() == profilepb.Role_ROLE_MANAGER {
		if err := s.managers.check(managerRate, now); err != nil {
			return nil, err
		}
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(rec)
	if err != nil {
		return nil, err
	}
	if len(raw) > profile.MaxTokenRecord {
		return nil, invalid("the token record is larger than %d bytes", profile.MaxTokenRecord)
	}
	if err := s.note(entry{Event: "mint-token", Token: rec.GetId(), Role: profile.RoleName(rec.GetRole())}); err != nil {
		return nil, err
	}
	return &keydpb.MintTokenResponse{Signed: &profilepb.SignedTokenRecord{
		Record: raw, Signature: opened.keyset.signRecord(profile.TokenSigningInput(raw)), KeysetEpoch: opened.keyset.epoch,
	}}, nil
}

// checkTokenBounds is the policy on tokens that are well formed.
func checkTokenBounds(rec *profilepb.TokenRecord, now time.Time) error {
	expires, uses := time.Unix(rec.GetExpiresAt(), 0), rec.GetMaxUses()
	longLived := rec.GetExpiresAt() == 0
	if rec.GetRole() == profilepb.Role_ROLE_MANAGER {
		switch {
		case longLived || expires.After(now.Add(maxManagerToken)):
			return denied("a manager token may live for %s at most", maxManagerToken)
		case uses != 1:
			return denied("a manager token admits exactly one manager, not %d", uses)
		}
		return nil
	}
	switch {
	case longLived: // workers only; the shape has no bound on uses then
		return nil
	case expires.After(now.Add(maxWorkerToken)):
		return denied("a worker token may live for %s at most, or be long-lived", maxWorkerToken)
	case uses > maxWorkerUses:
		return denied("a worker token may admit %d workers at most, or be long-lived", maxWorkerUses)
	}
	return nil
}

// openToken returns the record of a join token that this keyset signed and that is good
// now, as far as keyd knows: uses are for others to count.
func (k *keyset) openToken(signed *profilepb.SignedTokenRecord, now time.Time) (*profilepb.TokenRecord, error) {
	rec, err := profile.OpenTokenRecord(k.records, signed)
	if err == nil {
		err = profile.CheckToken(rec, k.clusterID, now)
	}
	if err != nil {
		return nil, denied("%v", err)
	}
	return rec, nil
}
