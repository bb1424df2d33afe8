package keyd

import (
	"bytes"
	"crypto/hpke"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/awnumar/memguard"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// isRetired reports whether that keyd key was a removed manager's.
func (k *keyset) isRetired(keydKey []byte) bool {
	sum := sha256.Sum256(keydKey)
	for b := k.retired; len(b) > 0; b = b[sha256.Size:] {
		if bytes.Equal(b[:sha256.Size], sum[:]) {
			return true
		}
	}
	return false
}

var errRetired = denied("that keyd key was retired with the manager that had it: it gets no keyset again")

// next makes the keyset of the next epoch. The root stays; all that signs or
// opens below it is new.
func (k *keyset) next(now time.Time, retire [][]byte) (*keyset, error) {
	next := &keyset{
		clusterID: k.clusterID, epoch: k.epoch + 1,
		root: k.root, rootKey: k.rootKey, other: k.other, otherKey: k.otherKey, formerRoots: k.formerRoots, cross: k.cross,
		former:        append([]*x509.Certificate{k.issuing}, k.former[:min(len(k.former), maxFormer-1)]...),
		formerMasters: append([]epochKey{k.master}, k.formerMasters...),
		external:      k.external,
	}
	if len(next.formerMasters) > maxFormer {
		return nil, refuse(keydpb.Code_CODE_DENIED, "secrets are still sealed to the masters of %d rotations: wait until the leader has sealed them anew", maxFormer)
	}
	for _, key := range retire {
		sum := sha256.Sum256(key)
		next.retired = append(next.retired, sum[:]...)
	}
	next.retired = append(next.retired, k.retired...)
	next.retired = next.retired[:min(len(next.retired), maxRetired*sha256.Size)]
	next.prune()
	return next.renewed(now)
}

// rotateKeyset makes the next keyset for the managers that stay. That somebody
// left, and who stays, is redoubtd's word; a manager that was retired before is
// not among them whatever redoubtd says.
func (s *Server) rotateKeyset(req *keydpb.RotateKeysetRequest) (*keydpb.RotateKeysetResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	to, err := s.recipients(opened, req, now)
	if err != nil {
		return nil, err
	}
	if err := s.managers.check(managerRate, now); err != nil {
		return nil, err
	}
	detail := fmt.Sprintf("epoch %d for", opened.keyset.epoch+1)
	for _, id := range to {
		detail += " " + id.NodeID
	}
	if err := s.note(entry{Event: "rotate-keyset", Detail: detail}); err != nil {
		return nil, err
	}
	k, err := opened.keyset.next(now, req.GetRetired())
	if codeOf(err) == keydpb.Code_CODE_DENIED {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("making the next keyset: %w", err)
	}
	defer k.destroy()
	resp := &keydpb.RotateKeysetResponse{Epoch: k.epoch, Issuer: k.issuing.Raw, FormerWorkloadIssuer: rawOf(opened.keyset.workload)}
	resp.Sealed, err = k.sealFor(to)
	return resp, err
}

// sealFor seals a keyset that is not in force yet to each of these managers.
func (k *keyset) sealFor(to []profile.Identity) (out []*keydpb.SealedKeyset, _ error) {
	for _, id := range to {
		public, err := hpke.MLKEM768X25519().NewPublicKey(id.KeydKey)
		if err != nil {
			return nil, err
		}
		sealed, err := hpke.Seal(public, hpke.HKDFSHA256(), hpke.AES256GCM(), rotationInfo(k.clusterID, id.NodeID, k.epoch), k.buf.Bytes())
		if err != nil {
			return nil, err
		}
		out = append(out, &keydpb.SealedKeyset{NodeId: id.NodeID, Sealed: sealed})
	}
	return out, nil
}

// recipients are the managers that stay, from leaves that this cluster's CA
// signed.
func (s *Server) recipients(opened *secrets, req *keydpb.RotateKeysetRequest, now time.Time) (to []profile.Identity, err error) {
	if len(req.GetManagers()) > maxManagers || len(req.GetRetired()) > maxManagers {
		return nil, invalid("more than %d managers", maxManagers)
	}
	seen := map[string]bool{}
	for _, m := range req.GetManagers() {
		id, err := opened.keyset.manager(m, now)
		if err != nil {
			return nil, err
		}
		switch {
		case seen[id.NodeID]:
			return nil, invalid("manager %s is named twice", id.NodeID)
		case opened.keyset.isRetired(id.KeydKey):
			return nil, errRetired
		}
		for _, key := range req.GetRetired() {
			if bytes.Equal(key, id.KeydKey) {
				return nil, invalid("manager %s both stays and leaves", id.NodeID)
			}
		}
		seen[id.NodeID] = true
		to = append(to, id)
	}
	for _, key := range req.GetRetired() {
		if _, err := hpke.MLKEM768X25519().NewPublicKey(key); err != nil {
			return nil, invalid("a retired key is no keyd key")
		}
	}
	if !seen[s.file.state.GetNodeId()] {
		return nil, denied("this manager itself does not stay: hand over leadership first")
	}
	return to, nil
}

// manager reads a manager's leaf. It may have expired, as its holder may be
// away, and be of a former issuing CA: what counts is the key it certifies.
func (k *keyset) manager(chain *profilepb.CertificateChain, now time.Time) (profile.Identity, error) {
	certs, err := profile.ParseChain(chain)
	if err != nil {
		return profile.Identity{}, invalid("%v", err)
	}
	id, err := profile.NodeFromCert(certs[0])
	if err != nil {
		return id, invalid("%v", err)
	}
	at := now
	if at.After(certs[0].NotAfter) {
		at = certs[0].NotAfter
	}
	switch {
	case id.ClusterID != k.clusterID || k.verifyOld(certs[0], at) != nil:
		return id, denied("the leaf of manager %s was not issued by this cluster, or by a CA of more than %d rotations ago", id.NodeID, maxFormer)
	case id.Role != profilepb.Role_ROLE_MANAGER:
		return id, denied("the keyset goes to managers alone, not to a %s", profile.RoleName(id.Role))
	case id.KeydKey == nil:
		return id, denied("a manager's leaf certifies no keyd key")
	}
	return id, nil
}

const rotationLabel = "redoubt keyset rotation v1\x00"

func rotationInfo(clusterID, nodeID string, epoch uint64) []byte {
	b := lp.Append(lp.Append([]byte(rotationLabel), []byte(clusterID)), []byte(nodeID))
	return binary.BigEndian.AppendUint64(b, epoch)
}

// adoptKeyset takes the keyset of a later epoch into use. What proves it is the
// root key, which is in every keyset, in no other place than keyds, and must be
// the one held here, or one that it certified: nobody without a keyset of this
// cluster can make one.
func (s *Server) adoptKeyset(req *keydpb.AdoptKeysetRequest) (*keydpb.AdoptKeysetResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	old, nodeID := opened.keyset, s.file.state.GetNodeId()
	switch {
	case len(req.GetSealedKeyset()) > maxSealedKeyset:
		return nil, invalid("the sealed keyset is larger than %d bytes", maxSealedKeyset)
	case req.GetEpoch() == old.epoch:
		return &keydpb.AdoptKeysetResponse{Epoch: old.epoch}, nil
	case req.GetEpoch() < old.epoch:
		return nil, refuse(keydpb.Code_CODE_STALE_EPOCH, "keyset epoch %d is not newer than epoch %d in use", req.GetEpoch(), old.epoch)
	}
	if err := s.managers.check(managerRate, time.Now()); err != nil {
		return nil, err
	}
	k, err := opened.receiveNext(nodeID, req)
	if err != nil {
		return nil, err
	}
	next := &secrets{keyset: k, local: opened.local, incarnation: opened.incarnation}
	err = s.note(entry{Event: "adopt-keyset", Outcome: "begun", Detail: fmt.Sprintf("epoch %d", k.epoch)})
	if err == nil {
		err = s.save(next, nodeID, s.file.state.GetSlots(), nil)
	}
	if err != nil {
		k.destroy()
		return nil, err
	}
	s.secrets = next
	old.destroy()
	s.log.Info("took over the keyset", "epoch", k.epoch)
	return &keydpb.AdoptKeysetResponse{Epoch: k.epoch}, nil
}

// receiveNext opens a rotated keyset and holds it against the one in use.
func (s *secrets) receiveNext(nodeID string, req *keydpb.AdoptKeysetRequest) (*keyset, error) {
	private, err := hpke.MLKEM768X25519().NewPrivateKey(s.local.keydSeed)
	if err != nil {
		return nil, err
	}
	info := rotationInfo(s.keyset.clusterID, nodeID, req.GetEpoch())
	plain, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.AES256GCM(), info, req.GetSealedKeyset())
	if err != nil || len(plain) == 0 {
		return nil, denied("the keyset is not sealed to this keyd for that epoch, or is damaged")
	}
	k, err := openKeyset(memguard.NewBufferFromBytes(plain)) // wipes plain
	if err != nil {
		return nil, denied("%v", err)
	}
	switch {
	case k.clusterID != s.keyset.clusterID:
		err = denied("the keyset is of another cluster")
	case !k.succeeds(s.keyset):
		err = denied("the keyset has a root that this keyd knows nothing of")
	case k.epoch != req.GetEpoch():
		err = denied("the keyset is of epoch %d, not of %d", k.epoch, req.GetEpoch())
	case k.isRetired(s.local.keydKey):
		err = errRetired
	}
	if err != nil {
		k.destroy()
		return nil, err
	}
	return k, nil
}
