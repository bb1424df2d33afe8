package keyd

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/erase"
	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// order is a worker's leaf that was approved and that an external CA is to sign.
type order struct {
	id     profile.Identity
	public *ecdsa.PublicKey
	keys   []string          // as the journal names it
	epoch  uint64            // of the keyset that approved it
	issuer *x509.Certificate // that is to be above the leaf
	at     time.Time
	until  time.Time // the end of the leaf
}

// orders are those that are not answered, by their ids; the zero value is none.
type orders struct{ open map[string]*order }

// add keeps an order, and forgets those that were not answered in time.
func (o *orders) add(id string, to *order) error {
	if len(o.open) >= maxOrders {
		for id, old := range o.open {
			if to.at.Sub(old.at).Abs() > orderLife {
				delete(o.open, id)
			}
		}
	}
	switch {
	case len(o.open) >= maxOrders:
		return refuse(keydpb.Code_CODE_RATE_LIMITED, "%d certificates are asked of the external CA at this moment: try again in %s", maxOrders, orderLife)
	case o.open == nil:
		o.open = map[string]*order{}
	}
	o.open[id] = to
	return nil
}

// take gives an order away: it is answered once.
func (o *orders) take(id string, now time.Time) *order {
	to := o.open[id]
	delete(o.open, id)
	if to == nil || now.Sub(to.at).Abs() > orderLife {
		return nil
	}
	return to
}

// orders reports whether leaves of that role are an external CA's to sign.
func (k *keyset) orders(role profilepb.Role) bool {
	return k.external != nil && role == profilepb.Role_ROLE_WORKER
}

const orderLabel = "redoubt order v1\x00"

// orderScalar is the key that signs orders, which the caller wipes. It is derived
// from the secrets master, so that every keyd has it and a manager that left has it
// no more.
func (k *keyset) orderScalar() ([]byte, error) {
	seed, err := hkdf.Key(sha256.New, k.master.key, nil, string(lp.Append([]byte(orderLabel), []byte(k.clusterID))), autolock.KeyLen)
	if err != nil {
		return nil, err
	}
	defer clear(seed)
	private, err := hpke.DHKEM(ecdh.P256()).DeriveKeyPair(seed) // RFC 9180, section 7.1.3
	if err != nil {
		return nil, err
	}
	return private.Bytes()
}

// orderSigner signs orders; the caller wipes its key. Deriving it leaves copies on
// the heap that only erase reaches, and verbs that order run outside of it.
func (k *keyset) orderSigner() (signer *tokenSigner, err error) {
	erase.Do(func() {
		var scalar []byte
		if scalar, err = k.orderScalar(); err != nil {
			return
		}
		defer clear(scalar)
		signer, err = newJWTSigner(scalar)
	})
	return signer, err
}

// orderPublic is what an external CA verifies orders with.
func (k *keyset) orderPublic() ([]byte, error) {
	signer, err := k.orderSigner()
	if err != nil {
		return nil, err
	}
	defer wipeECDSA(signer.key)
	return x509.MarshalPKIXPublicKey(&signer.key.PublicKey)
}

// claims are what an external CA is told, in step-ca's words. cnf binds the request,
// so that nobody else's is signed for it; tpm is the value of that extension.
type claims struct {
	Issuer   string            `json:"iss"`
	Subject  string            `json:"sub"`
	Audience []string          `json:"aud"`
	From     int64             `json:"nbf"`
	At       int64             `json:"iat"`
	Until    int64             `json:"exp"`
	ID       string            `json:"jti"`
	SANs     []string          `json:"sans"`
	Request  map[string]string `json:"cnf"`
	TPM      string            `json:"tpm,omitempty"`
}

// order asks an external CA for a worker's leaf, which was approved as if it were
// signed here. e is what the journal is told beside the node.
func (s *Server) order(k *keyset, r *requests, nodeID string, csr []byte, now time.Time, e entry) (*keydpb.Order, error) {
	to := &order{
		id: profile.Identity{ClusterID: k.clusterID, NodeID: nodeID, Role: r.role, TPM: r.tpm}, public: r.leaf, keys: r.keys(),
		epoch: k.epoch, issuer: k.external.issuer, at: now, until: now.Add(s.leafLife(r)).UTC().Truncate(time.Second),
	}
	if to.until.After(k.external.issuer.NotAfter) {
		to.until = k.external.issuer.NotAfter
	}
	if !now.Before(to.until) {
		return nil, denied("the external CA's certificate has expired: `redoubt ca external set` takes its new one")
	}
	e.Node, e.Role, e.Detail = nodeID, profile.RoleName(r.role), "of "+k.external.url
	if err := s.note(e); err != nil {
		return nil, err
	}
	var id [16]byte
	rand.Read(id[:])
	token, err := k.orderToken(to, hex.EncodeToString(id[:]), csr)
	if err != nil {
		return nil, err
	}
	if err := s.orders.add(string(id[:]), to); err != nil {
		return nil, err
	}
	return &keydpb.Order{Id: id[:], Url: k.external.url, Root: k.external.root.Raw, Token: token, NotAfter: to.until.Unix(), Epoch: to.epoch}, nil
}

func (k *keyset) orderToken(to *order, id string, csr []byte) (string, error) {
	signer, err := k.orderSigner()
	if err != nil {
		return "", err
	}
	defer wipeECDSA(signer.key)
	name, sum := profile.NodeURI(to.id.ClusterID, to.id.NodeID).String(), sha256.Sum256(csr)
	c := claims{
		Issuer: k.external.provisioner, Subject: name, Audience: []string{k.external.url + "/1.0/sign"},
		From: to.at.Unix(), At: to.at.Unix(), Until: to.at.Add(orderLife).Unix(), ID: id,
		SANs: []string{name}, Request: map[string]string{"x5rt#S256": base64.RawURLEncoding.EncodeToString(sum[:])},
	}
	if to.id.TPM != nil {
		value, err := asn1.Marshal(to.id.TPM)
		if err != nil {
			return "", err
		}
		c.TPM = base64.StdEncoding.EncodeToString(value)
	}
	return signer.signClaims(c)
}

// takeExternal holds what an external CA answered against what was ordered, and
// journals the certificate: before that it is nobody's. CODE_DENIED says that the
// answer is refused, and no other error does.
func (s *Server) takeExternal(req *keydpb.TakeExternalRequest) (*keydpb.TakeExternalResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	k, now := opened.keyset, time.Now()
	to := s.orders.take(string(req.GetOrder()), now)
	switch { // not the answer's fault: no CODE_DENIED
	case to == nil:
		return nil, refuse(keydpb.Code_CODE_STALE_EPOCH, "no such certificate was ordered of an external CA in the last %s, or it was answered", orderLife)
	case k.external == nil || k.epoch != to.epoch || !k.external.issuer.Equal(to.issuer):
		return nil, refuse(keydpb.Code_CODE_STALE_EPOCH, "the cluster's keys were rotated since the certificate was ordered: it is asked for again")
	}
	leaf, err := k.external.check(req.GetChain(), to, now)
	if err != nil {
		return nil, denied("the external CA's answer is refused: %v", err)
	}
	if err := k.verify(leaf, now); err != nil {
		return nil, denied("the external CA's answer is refused: %v", err)
	}
	e := entry{Event: "take-external", Node: to.id.NodeID, Role: profile.RoleName(to.id.Role), Keys: to.keys,
		Detail: fmt.Sprintf("serial %x of %s", leaf.SerialNumber, k.external.url)}
	if err := s.note(e); err != nil {
		return nil, err
	}
	return &keydpb.TakeExternalResponse{Leaf: &profilepb.CertificateChain{Certificates: [][]byte{leaf.Raw, k.external.issuer.Raw, k.root.Raw}}}, nil
}

// check returns the leaf of a chain that an external CA gave for an order, or what
// is wrong with it.
func (e *external) check(chain [][]byte, to *order, now time.Time) (*x509.Certificate, error) {
	if len(chain) == 0 || len(chain) > profile.MaxChain {
		return nil, fmt.Errorf("a chain of %d certificates", len(chain))
	}
	if len(chain[0]) > profile.MaxCert {
		return nil, fmt.Errorf("a certificate larger than %d bytes", profile.MaxCert)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, errors.New("a malformed certificate")
	}
	if !to.public.Equal(leaf.PublicKey) {
		return nil, errors.New("it certified another key than the one it was asked for")
	}
	got, err := profile.NodeFromCert(leaf)
	if err != nil {
		return nil, fmt.Errorf("%w (does its provisioner have the template of `redoubt ca external provisioner`?)", err)
	}
	switch {
	case got.ClusterID != to.id.ClusterID || got.NodeID != to.id.NodeID:
		return nil, errors.New("it certified another name than the one it was asked for")
	case got.Role != to.id.Role || got.KeydKey != nil || string(got.TPM) != string(to.id.TPM):
		return nil, errors.New("it certified another role, or another TPM")
	case !profile.NamesProvisioner(leaf):
		return nil, errors.New("it does not say of which provisioner it is, so that a step-ca would renew it for whoever has its key: " +
			"`disableSmallstepExtensions` of the provisioner is false, as `redoubt ca external provisioner` prints it")
	case leaf.NotAfter.After(to.until):
		return nil, fmt.Errorf("it is good until %s, longer than asked for", leaf.NotAfter.UTC().Format(time.RFC3339))
	case leaf.NotBefore.After(now) || !leaf.NotAfter.After(now):
		return nil, errors.New("it is not good now: compare the clocks")
	case leaf.NotBefore.Before(to.at.Add(-externalBackdate)):
		return nil, fmt.Errorf("it is dated back by more than %s", externalBackdate)
	case leaf.SerialNumber.Sign() <= 0 || len(leaf.SerialNumber.Bytes()) > maxSerial:
		return nil, errors.New("its serial number is out of bounds")
	}
	// The certificates above it are those that were set, whatever was sent.
	roots, signers := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(e.root)
	signers.AddCert(e.signer)
	found, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: signers, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil || len(found) == 0 {
		return nil, errors.New("it is not signed by the CA that was set: where that one has a new certificate, `redoubt ca external set` takes it")
	}
	return leaf, nil
}
