package keyd

import (
	"context"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// signPromotion certifies a worker as a manager. That an operator wants it is
// redoubtd's word, so it is rate-limited with all that makes managers and
// written down first. Which worker it is, and that it asks itself, keyd verifies.
func (s *Server) signPromotion(ctx context.Context, req *keydpb.SignPromotionRequest) (*keydpb.SignPromotionResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	chain, err := profile.ParseChain(req.GetOld())
	if err != nil {
		return nil, invalid("%v", err)
	}
	old := chain[0]
	id, err := profile.NodeFromCert(old)
	if err != nil {
		return nil, invalid("%v", err)
	}
	switch {
	case id.Role != profilepb.Role_ROLE_WORKER:
		return nil, denied("a worker can be promoted, not a %s", profile.RoleName(id.Role))
	case id.ClusterID != opened.keyset.clusterID || opened.keyset.verifyOld(old, now) != nil:
		return nil, denied("the worker's leaf was not issued by this cluster, or is not valid now")
	}
	if err := profile.CheckPromotionProof(old, req.GetCsr(), req.GetBootCsr(), req.GetProof()); err != nil {
		return nil, denied("%v", err)
	}
	reqs, err := parseRequests(profilepb.Role_ROLE_MANAGER, req.GetCsr(), req.GetBootCsr())
	if err != nil {
		return nil, err
	}
	if err := reqs.complete(); err != nil {
		return nil, err
	}
	switch {
	case reqs.leaf.Equal(old.PublicKey):
		return nil, denied("a promotion needs a fresh key")
	case opened.keyset.isRetired(reqs.keydKey):
		return nil, errRetired
	case string(reqs.keydKey) == string(opened.local.keydKey):
		return nil, denied("the certificate request carries the key of this very keyd")
	}
	if err := checkVouched(id, purposePromote, profile.PromotionProofInput(req.GetCsr(), req.GetBootCsr(), old.Raw), req.GetEvidence()); err != nil {
		return nil, err
	}
	reqs.tpm = id.TPM
	if err := s.issues.check(issueRate, now); err != nil {
		return nil, err
	}
	if err := s.managers.check(managerRate, now); err != nil {
		return nil, err
	}
	if err := s.note(entry{Event: "sign-promotion", Node: id.NodeID, Role: profile.RoleName(reqs.role), Keys: reqs.keys()}); err != nil {
		return nil, err
	}
	leaf, boot, err := s.issueAll(ctx, opened.keyset, reqs, id.NodeID, now)
	return &keydpb.SignPromotionResponse{Leaf: leaf, Boot: boot}, err
}
