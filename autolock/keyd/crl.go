package keyd

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/big"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
)

// signCRL signs the revocation list of one of the CAs whose keys are here. What is
// on it is redoubtd's word: a list can take trust away and never give any, and who
// holds redoubtd can keep an entry off it. keyd's share is that a list is bounded,
// ends soon, and never goes back behind one that it signed since it started.
func (s *Server) signCRL(req *keydpb.SignCRLRequest) (*keydpb.SignCRLResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	ca, key := opened.keyset.authority(req.GetIssuer())
	switch {
	case ca == nil:
		return nil, denied("the keyset holds no key of that CA")
	case len(req.GetRevoked()) > maxRevoked:
		return nil, invalid("a revocation list names at most %d certificates, not %d", maxRevoked, len(req.GetRevoked()))
	case req.GetNumber() == 0:
		return nil, invalid("a revocation list needs a number")
	}
	which := sha256.Sum256(ca.Raw)
	if last := s.lists[which]; req.GetNumber() <= last {
		return nil, refuse(keydpb.Code_CODE_STALE_EPOCH, "revocation list %d is not newer than list %d", req.GetNumber(), last)
	}
	now := time.Now()
	t := &x509.RevocationList{
		Number:     new(big.Int).SetUint64(req.GetNumber()),
		ThisUpdate: now.Add(-crlBackdate).UTC().Truncate(time.Second),
		NextUpdate: now.Add(crlLife).UTC().Truncate(time.Second),
	}
	for _, r := range req.GetRevoked() {
		serial := r.GetSerial()
		if len(serial) == 0 || len(serial) > maxSerial || serial[0] == 0 || r.GetAt() <= 0 {
			return nil, invalid("a certificate on the revocation list has no serial number or no time")
		}
		t.RevokedCertificateEntries = append(t.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: new(big.Int).SetBytes(serial), RevocationTime: time.Unix(r.GetAt(), 0).UTC()})
	}
	if err := s.crls.check(crlRate, now); err != nil {
		return nil, err
	}
	if err := s.note(entry{Event: "sign-crl", Detail: fmt.Sprintf("number %d of CA %s: %d certificates", req.GetNumber(), hex.EncodeToString(which[:8]), len(req.GetRevoked()))}); err != nil {
		return nil, err
	}
	der, err := x509.CreateRevocationList(rand.Reader, t, ca, scalarSigner{ca.PublicKey.(*ecdsa.PublicKey), key})
	if err != nil {
		return nil, fmt.Errorf("signing the revocation list: %w", err)
	}
	if s.lists == nil {
		s.lists = map[[32]byte]uint64{}
	}
	s.lists[which] = req.GetNumber()
	return &keydpb.SignCRLResponse{Crl: der, NextUpdate: t.NextUpdate.Unix()}, nil
}

// authority is the CA of that hash whose key this keyset has, and the key.
func (k *keyset) authority(hash []byte) (*x509.Certificate, []byte) {
	for _, c := range []struct {
		cert *x509.Certificate
		key  []byte
	}{{k.issuing, k.issuingKey}, {k.workload, k.workloadKey}, {k.root, k.rootKey}, {k.other, k.otherKey}} {
		if c.cert == nil || len(c.key) == 0 {
			continue
		}
		if sum := sha256.Sum256(c.cert.Raw); string(sum[:]) == string(hash) {
			return c.cert, c.key
		}
	}
	return nil, nil
}
