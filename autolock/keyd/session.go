package keyd

import (
	"bytes"
	"crypto/hpke"
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"github.com/awnumar/memguard"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// session is the key that shares from other machines are sealed to, for the time
// that keyd is locked.
type session struct {
	seed   *memguard.LockedBuffer
	public []byte
}

func (s *session) destroy() {
	if s != nil {
		s.seed.Destroy()
	}
}

const sessionLabel = "redoubt share session v1\x00"

func sessionInfo(clusterID, nodeID string) []byte {
	return lp.Append(lp.Append([]byte(sessionLabel), []byte(clusterID)), []byte(nodeID))
}

// lockedNow returns an error unless shares can be taken; the caller holds mu.
func (s *Server) lockedNow() error {
	switch s.phase() {
	case keydpb.LockState_LOCK_STATE_EMPTY:
		return errEmpty
	case keydpb.LockState_LOCK_STATE_UNLOCKED:
		return refuse(keydpb.Code_CODE_NOT_LOCKED, "this manager is not locked")
	}
	return nil
}

// lockSession returns the session key and makes it where there is none.
func (s *Server) lockSession() (*keydpb.LockSessionResponse, error) {
	if err := s.lockedNow(); err != nil {
		return nil, err
	}
	if s.session == nil {
		made := &session{seed: randomKey()}
		private, err := hpke.MLKEM768X25519().NewPrivateKey(made.seed.Bytes())
		if err != nil {
			made.destroy()
			return nil, err
		}
		made.public = private.PublicKey().Bytes()
		s.session = made
	}
	return &keydpb.LockSessionResponse{SessionKey: s.session.public, ClusterId: s.file.state.GetClusterId(), NodeId: s.file.state.GetNodeId()}, nil
}

// takeSealed takes a share that was typed elsewhere. Who brought it does not
// matter: it is one of its slot's, or refused.
func (s *Server) takeSealed(req *keydpb.TakeShareRequest) (*keydpb.TakeShareResponse, error) {
	switch err := s.lockedNow(); {
	case codeOf(err) == keydpb.Code_CODE_NOT_LOCKED:
		return &keydpb.TakeShareResponse{Unlocked: true}, nil // others were enough
	case err != nil:
		return nil, err
	case s.session == nil:
		return nil, refuse(keydpb.Code_CODE_STALE_EPOCH, "the share is sealed to a key that is gone, as keyd was restarted: give it again")
	case len(req.GetSealed()) > maxSealedShare:
		return nil, invalid("the sealed share is larger than %d bytes", maxSealedShare)
	}
	private, err := hpke.MLKEM768X25519().NewPrivateKey(s.session.seed.Bytes())
	if err != nil {
		return nil, err
	}
	st := s.file.state
	raw, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.AES256GCM(), sessionInfo(st.GetClusterId(), st.GetNodeId()), req.GetSealed())
	defer clear(raw)
	if err != nil {
		return nil, refuse(keydpb.Code_CODE_STALE_EPOCH, "the share is not sealed to the key in use, or is damaged: give it again")
	}
	share, err := autolock.ReadShare(raw)
	if err != nil {
		return nil, invalid("%v", err)
	}
	defer share.Wipe()
	resp := new(keydpb.TakeShareResponse)
	resp.Progress, resp.Unlocked, resp.Had, err = s.takeShare(&share, false)
	return resp, err
}

// giveShare takes a share that was typed on this machine, and seals it for the
// locked managers that whoever typed it wants to have it.
func (s *Server) giveShare(req *keydpb.GiveShareRequest) (*keydpb.GiveShareResponse, error) {
	if err := s.hasState(); err != nil {
		return nil, err
	}
	switch {
	case s.secrets != nil && len(req.GetTo()) == 0:
		return nil, refuse(keydpb.Code_CODE_NOT_LOCKED, "this manager is not locked")
	case len(req.GetTo()) > maxManagers:
		return nil, invalid("more than %d managers", maxManagers)
	}
	share, err := autolock.ReadShare(req.GetShare())
	if err != nil {
		return nil, invalid("%v", err)
	}
	defer share.Wipe()
	// What is wrong is sent to nobody.
	if _, err := s.slotOf(&share); err != nil {
		return nil, err
	}
	resp := &keydpb.GiveShareResponse{Number: uint32(share.Number()), Unlocked: s.secrets != nil}
	for _, to := range req.GetTo() {
		resp.Sealed = append(resp.Sealed, s.sealShare(&share, to))
	}
	if s.secrets == nil {
		resp.Progress, resp.Unlocked, resp.Had, err = s.takeShare(&share, true)
	}
	return resp, err
}

// sealShare seals a share to a locked manager's session key, or says why not.
func (s *Server) sealShare(share *autolock.Share, to *keydpb.SessionStatement) *keydpb.SealedShare {
	id, err := s.verifySession(to, time.Now())
	out := &keydpb.SealedShare{NodeId: id.NodeID}
	if err == nil {
		raw := share.Bytes()
		defer clear(raw)
		var public hpke.PublicKey
		if public, err = hpke.MLKEM768X25519().NewPublicKey(to.GetSessionKey()); err == nil {
			out.Sealed, err = hpke.Seal(public, hpke.HKDFSHA256(), hpke.AES256GCM(), sessionInfo(id.ClusterID, id.NodeID), raw)
		}
	}
	if err != nil {
		out.Refused = oneline.Text(err.Error(), maxSaid)
		return out
	}
	s.log.Info("a share was sealed to another manager", "node", id.NodeID, "number", share.Number())
	return out
}

// errOtherRoot is for a chain that is whole and ends elsewhere. A former root is not
// written down, as whoever has its key, which may be why it was replaced, could make
// a locked manager.
var errOtherRoot = errors.New("its certificate ends in a root that this manager does not know: where one of the two was off while the root was replaced, " +
	"type the shares or the key on the locked one itself")

// verifySession returns whose session key that is. The boot leaf's chain must end in
// a root that this keyd itself has written down.
func (s *Server) verifySession(to *keydpb.SessionStatement, now time.Time) (profile.Identity, error) {
	chain, err := profile.ParseChain(to.GetBoot())
	if err != nil {
		return profile.Identity{}, err
	}
	id, err := profile.NodeFromCert(chain[0])
	if err != nil {
		return id, err
	}
	st := s.file.state
	switch {
	case len(st.GetRootPins()) == 0:
		return id, errors.New("this manager's keyd has not written the cluster's root down yet")
	case id.ClusterID != st.GetClusterId():
		return id, errors.New("its certificate is of another cluster")
	case id.Role != profilepb.Role_ROLE_BOOT:
		return id, errors.New("its certificate is no locked manager's")
	case id.NodeID == st.GetNodeId():
		return id, errors.New("it is this very manager")
	}
	roots, others, issuers := x509.NewCertPool(), x509.NewCertPool(), x509.NewCertPool()
	for _, c := range chain[1:] {
		switch {
		case slices.ContainsFunc(st.GetRootPins(), func(pin []byte) bool { return bytes.Equal(pin, profile.SPKIHash(c)) }):
			roots.AddCert(c)
		case c.CheckSignatureFrom(c) == nil:
			others.AddCert(c)
		default:
			issuers.AddCert(c)
		}
	}
	below := func(roots *x509.CertPool) bool {
		_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: issuers, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		return err == nil
	}
	switch {
	case below(roots):
	case below(others):
		return id, errOtherRoot
	default:
		return id, errors.New("its certificate was not issued by this cluster, or is not valid now")
	}
	return id, profile.CheckSession(chain[0], id, to.GetSessionKey(), to.GetSignature())
}

// rootPins are what the state says of the roots.
func (k *keyset) rootPins() (out [][]byte) {
	for _, c := range []*x509.Certificate{k.root, k.other} {
		if c != nil {
			out = append(out, profile.SPKIHash(c))
		}
	}
	return out
}
