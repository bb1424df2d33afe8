package keyd

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// signJoin issues a joiner's certificates from a token record that this keyset
// signed and the joiner's proof. The role is the record's.
func (s *Server) signJoin(ctx context.Context, req *keydpb.SignJoinRequest) (*keydpb.SignJoinResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	rec, err := opened.keyset.openToken(req.GetToken(), now)
	if err != nil {
		return nil, err
	}
	switch {
	case rec.GetMaxUses() != 0 && req.GetUses() >= rec.GetMaxUses():
		return nil, denied("the join token is used up: make a new one with redoubt join-token")
	case rec.GetNodeName() != "" && rec.GetNodeName() != req.GetNodeName():
		return nil, denied("the join token is for a node of another name")
	case !ident.Valid(req.GetNodeId()):
		return nil, invalid("malformed node id")
	case req.GetNodeId() == s.file.state.GetNodeId():
		return nil, denied("a joiner may not take this manager's own node id")
	}
	if err := ident.CheckHostname(req.GetNodeName()); err != nil {
		return nil, invalid("%v", err)
	}
	if err := profile.CheckJoinProof(rec.GetPublicKey(), req.GetExporter(), req.GetCsr(), req.GetBootCsr(), rec.GetId(), req.GetProof()); err != nil {
		return nil, denied("%v", err)
	}
	reqs, err := parseRequests(rec.GetRole(), req.GetCsr(), req.GetBootCsr())
	if err != nil {
		return nil, err
	}
	if err := reqs.complete(); err != nil {
		return nil, err
	}
	if err := reqs.live(req.GetWorkerLeafSeconds()); err != nil {
		return nil, err
	}
	var ek []byte
	if reqs.tpm, ek, err = s.admit(rec, req, now); err != nil {
		return nil, err
	}
	if wantsApproval(rec, req.GetPolicy()) && !req.GetApproved() {
		return &keydpb.SignJoinResponse{WantsApproval: true, TpmEk: ek}, nil
	}
	if err := s.issues.check(issueRate, now); err != nil {
		return nil, err
	}
	if opened.keyset.isRetired(reqs.keydKey) {
		return nil, errRetired
	}
	// An exporter value belongs to one connection, on which a token joins once.
	seen := sha256.Sum256(lp.Append(lp.Append(nil, []byte(rec.GetId())), req.GetExporter()))
	if !s.joins.add(seen) {
		return nil, denied("this join was already answered: connect and join again")
	}
	if opened.keyset.orders(reqs.role) {
		ordered, err := s.order(opened.keyset, reqs, req.GetNodeId(), req.GetCsr(), now, entry{Event: "order-join", Token: rec.GetId()})
		return &keydpb.SignJoinResponse{Order: ordered, TpmEk: ek}, err
	}
	if err := s.note(entry{Event: "sign-join", Node: req.GetNodeId(), Role: profile.RoleName(rec.GetRole()), Token: rec.GetId(), Keys: reqs.keys()}); err != nil {
		return nil, err
	}
	leaf, boot, err := s.issueAll(ctx, opened.keyset, reqs, req.GetNodeId(), now)
	return &keydpb.SignJoinResponse{Leaf: leaf, Boot: boot, TpmEk: ek}, err
}

// signRenew issues a new leaf to the holder of the one in use: same node, same
// role, same keyd key, another key. A manager may ask for a worker's instead:
// that gives less than it has, so nobody's word is needed.
func (s *Server) signRenew(ctx context.Context, req *keydpb.SignRenewRequest) (*keydpb.SignRenewResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	chain, err := profile.ParseChain(req.GetOld())
	if err != nil {
		return nil, invalid("%v", err)
	}
	old := chain[0] // the issuers are this keyset's own, whatever was sent
	id, err := s.checkOld(opened.keyset, old, now)
	if err != nil {
		return nil, err
	}
	if err := profile.CheckRenewProof(old, req.GetCsr(), req.GetBootCsr(), req.GetProof()); err != nil {
		return nil, denied("%v", err)
	}
	role, keydKey, event := id.Role, id.KeydKey, "sign-renew"
	if req.GetDemote() {
		if id.Role != profilepb.Role_ROLE_MANAGER {
			return nil, denied("a manager can be demoted, not a %s", profile.RoleName(id.Role))
		}
		role, keydKey, event = profilepb.Role_ROLE_WORKER, nil, "sign-demotion"
	}
	reqs, err := parseRequests(role, req.GetCsr(), req.GetBootCsr())
	if err != nil {
		return nil, err
	}
	if err := reqs.live(req.GetWorkerLeafSeconds()); err != nil {
		return nil, err
	}
	switch {
	case string(reqs.keydKey) != string(keydKey):
		return nil, denied("a renewal may not change the keyd key")
	case keydKey != nil && opened.keyset.isRetired(keydKey):
		return nil, errRetired
	case reqs.leaf.Equal(old.PublicKey):
		return nil, denied("a renewal needs a fresh key")
	}
	if err := checkVouched(id, purposeRenew, profile.RenewProofInput(req.GetCsr(), req.GetBootCsr(), old.Raw), req.GetEvidence()); err != nil {
		return nil, err
	}
	reqs.tpm = id.TPM
	if err := s.issues.check(issueRate, now); err != nil {
		return nil, err
	}
	if opened.keyset.orders(role) {
		ordered, err := s.order(opened.keyset, reqs, id.NodeID, req.GetCsr(), now, entry{Event: strings.Replace(event, "sign", "order", 1)})
		return &keydpb.SignRenewResponse{Order: ordered}, err
	}
	if err := s.note(entry{Event: event, Node: id.NodeID, Role: profile.RoleName(role), Keys: reqs.keys()}); err != nil {
		return nil, err
	}
	leaf, boot, err := s.issueAll(ctx, opened.keyset, reqs, id.NodeID, now)
	return &keydpb.SignRenewResponse{Leaf: leaf, Boot: boot}, err
}

// checkOld returns the identity in a leaf that may be renewed now.
func (s *Server) checkOld(k *keyset, old *x509.Certificate, now time.Time) (profile.Identity, error) {
	id, err := profile.NodeFromCert(old)
	if err != nil {
		return id, invalid("%v", err)
	}
	at := now
	if id.Role == profilepb.Role_ROLE_WORKER && now.After(old.NotAfter) && !now.After(old.NotAfter.Add(renewGrace)) {
		at = old.NotAfter
	}
	switch {
	case id.Role != profilepb.Role_ROLE_WORKER && id.Role != profilepb.Role_ROLE_MANAGER:
		return id, denied("a %s leaf cannot be renewed", profile.RoleName(id.Role))
	case now.After(old.NotAfter) && at.Equal(now):
		return id, denied("the leaf to renew has expired: join again with a new token")
	case id.ClusterID != k.clusterID || k.verifyOld(old, at) != nil:
		return id, denied("the leaf to renew was not issued by this cluster, or is not valid yet")
	}
	return id, nil
}

// signOwn re-issues this manager's own leaf, from the state and not from what
// is asked.
func (s *Server) signOwn(ctx context.Context, req *keydpb.SignOwnRequest, t fromTPM) (*keydpb.SignOwnResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	reqs, err := parseRequests(profilepb.Role_ROLE_MANAGER, req.GetCsr(), req.GetBootCsr())
	if err != nil {
		return nil, err
	}
	if err := reqs.certifyOwn(opened.local.keydKey); err != nil {
		return nil, err
	}
	if req.GetAttested() {
		if t.keyErr != nil {
			return nil, t.keyErr
		}
		reqs.tpm = t.attestationKey
	}
	if err := s.issues.check(issueRate, now); err != nil {
		return nil, err
	}
	nodeID := s.file.state.GetNodeId()
	if err := s.note(entry{Event: "sign-own", Node: nodeID, Role: profile.RoleName(reqs.role), Keys: reqs.keys()}); err != nil {
		return nil, err
	}
	leaf, boot, err := s.issueAll(ctx, opened.keyset, reqs, nodeID, now)
	return &keydpb.SignOwnResponse{Leaf: leaf, Boot: boot}, err
}

// sealKeyset seals the keyset to the keyd key in a manager leaf of this CA.
func (s *Server) sealKeyset(req *keydpb.SealKeysetRequest) (*keydpb.SealKeysetResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	chain, err := profile.ParseChain(req.GetManager())
	if err != nil {
		return nil, invalid("%v", err)
	}
	id, err := profile.NodeFromCert(chain[0])
	if err != nil {
		return nil, invalid("%v", err)
	}
	switch {
	case id.ClusterID != opened.keyset.clusterID || opened.keyset.verify(chain[0], now) != nil:
		return nil, denied("the manager's leaf was not issued by this cluster, or has expired")
	case id.Role != profilepb.Role_ROLE_MANAGER:
		return nil, denied("the keyset goes to managers alone, not to a %s", profile.RoleName(id.Role))
	case id.KeydKey == nil:
		return nil, denied("the manager's leaf certifies no keyd key")
	case opened.keyset.isRetired(id.KeydKey):
		return nil, errRetired
	}
	if err := s.managers.check(managerRate, now); err != nil {
		return nil, err
	}
	if err := s.note(entry{Event: "seal-keyset", Node: id.NodeID}); err != nil {
		return nil, err
	}
	sealed, err := sealKeyset(opened.keyset, id.KeydKey, id.NodeID)
	return &keydpb.SealKeysetResponse{SealedKeyset: sealed}, err
}
