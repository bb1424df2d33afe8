package keyd

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

var errNoWorkloadCA = denied("this cluster's keyset is of before workloads had identities: `redoubt ca rotate` makes what they need")

// signWorkloads issues what a node asks for its tasks. Who wants it is seen from
// the signature of the node's leaf; that the tasks are the node's is redoubtd's
// word, which leaves out what is not.
func (s *Server) signWorkloads(req *keydpb.SignWorkloadsRequest) (*keydpb.SignWorkloadsResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	k, now := opened.keyset, time.Now()
	if k.workload == nil || k.tokenKey == nil {
		return nil, errNoWorkloadCA
	}
	resp := &keydpb.SignWorkloadsResponse{}
	if resp.Bundle, err = s.bundle(k); err != nil {
		return nil, err
	}
	if len(req.GetNode().GetCertificates()) == 0 && len(req.GetBatch()) == 0 {
		return resp, nil
	}
	batch, node, err := checkWorkloads(k, req, now)
	if err != nil {
		return nil, err
	}
	left := map[int]bool{}
	for _, i := range req.GetRefused() {
		left[int(i)] = true
	}
	if err := s.workloads.checkAll(len(batch.GetItems())-len(left), workloadRate, now); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(req.GetBatch())
	detail := fmt.Sprintf("%d of batch %x", len(batch.GetItems())-len(left), sum[:8])
	if err := s.note(entry{Event: "sign-workloads", Node: node.NodeID, Role: profile.RoleName(node.Role), Detail: detail}); err != nil {
		return nil, err
	}
	resp.Documents, err = k.issueWorkloads(batch, left, now)
	resp.Issuer = &profilepb.CertificateChain{Certificates: [][]byte{k.workload.Raw, k.root.Raw}}
	return resp, err
}

// checkWorkloads returns an error unless a node of this cluster asked for the batch
// just now.
func checkWorkloads(k *keyset, req *keydpb.SignWorkloadsRequest, now time.Time) (*profilepb.WorkloadBatch, profile.Identity, error) {
	chain, err := profile.ParseChain(req.GetNode())
	if err != nil {
		return nil, profile.Identity{}, invalid("%v", err)
	}
	node, err := profile.NodeFromCert(chain[0])
	switch {
	case err != nil:
		return nil, node, invalid("%v", err)
	case node.Role != profilepb.Role_ROLE_WORKER && node.Role != profilepb.Role_ROLE_MANAGER:
		return nil, node, denied("a %s leaf asks for no workloads", profile.RoleName(node.Role))
	case node.ClusterID != k.clusterID || k.verifyOld(chain[0], now) != nil:
		return nil, node, denied("the node's leaf was not issued by this cluster, or is not valid now")
	}
	if err := profile.CheckBatch(chain[0], req.GetBatch(), req.GetProof()); err != nil {
		return nil, node, denied("%v", err)
	}
	batch, err := profile.ParseBatch(req.GetBatch())
	if err != nil {
		return nil, node, invalid("%v", err)
	}
	if off := now.Sub(time.Unix(batch.GetAt(), 0)); off.Abs() > maxBatchAge {
		return nil, node, denied("the batch was signed %s ago by the node's clock: at most %s are accepted", off.Round(time.Second), maxBatchAge)
	}
	for _, i := range req.GetRefused() {
		if int(i) >= len(batch.GetItems()) {
			return nil, node, invalid("item %d of the batch does not exist", i)
		}
	}
	return batch, node, nil
}

// issueWorkloads signs a batch but for what is left out. The two keys are parsed
// once for all of it.
func (k *keyset) issueWorkloads(batch *profilepb.WorkloadBatch, left map[int]bool, now time.Time) ([]*profilepb.WorkloadDocument, error) {
	ca, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), k.workloadKey)
	if err != nil {
		return nil, errors.New("the workload CA's key is damaged")
	}
	defer wipeECDSA(ca)
	tokens, err := newTokenSigner(k)
	if err != nil {
		return nil, err
	}
	defer wipeECDSA(tokens.key)
	out := make([]*profilepb.WorkloadDocument, len(batch.GetItems()))
	for i, item := range batch.GetItems() {
		out[i] = &profilepb.WorkloadDocument{}
		if left[i] {
			continue
		}
		var err error
		if cluster, _, _, perr := profile.ParseServiceURI(item.GetIdentity()); perr != nil || cluster != k.clusterID {
			err = errors.New("the identity is of another cluster")
		} else if item.GetCsr() != nil {
			var der []byte
			der, err = k.issueSVID(ca, item, now)
			out[i].Document = &profilepb.WorkloadDocument_Certificate{Certificate: der}
		} else {
			var token string
			token, err = tokens.sign(item, now)
			out[i].Document = &profilepb.WorkloadDocument_Token{Token: token}
		}
		if err != nil {
			out[i].Document = &profilepb.WorkloadDocument_Error{Error: err.Error()}
		}
	}
	return out, nil
}

func (k *keyset) issueSVID(ca crypto.Signer, item *profilepb.WorkloadItem, now time.Time) ([]byte, error) {
	csr, err := profile.ParseCSR(item.GetCsr())
	if err != nil {
		return nil, err
	}
	if csr.KeydKey != nil {
		return nil, errors.New("certificate request: a workload has no keyd key")
	}
	id, err := url.Parse(item.GetIdentity())
	if err != nil {
		return nil, err
	}
	t := profile.SVIDTemplate(id, now, time.Duration(item.GetLife())*time.Second)
	if t.NotAfter.After(k.workload.NotAfter) {
		t.NotAfter = k.workload.NotAfter
	}
	if !now.Before(t.NotAfter) {
		return nil, errors.New("the workload CA has expired: rotate it")
	}
	t.SerialNumber = newSerial()
	// CreateCertificate verifies what it signed with the CA's public key. What is in it
	// comes from profile's template and checked values alone; who asked looks at it
	// again (scheduler/svid).
	der, err := x509.CreateCertificate(rand.Reader, t, k.workload, csr.Request.PublicKey, ca)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate: %w", err)
	}
	return der, nil
}

// tokenSigner signs JWTs with ES256.
type tokenSigner struct {
	key    *ecdsa.PrivateKey
	header string
}

func newTokenSigner(k *keyset) (*tokenSigner, error) { return newJWTSigner(k.tokenKey) }

// newJWTSigner signs with a key of which this is the scalar; the caller wipes it.
func newJWTSigner(scalar []byte) (*tokenSigner, error) {
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		return nil, errors.New("the token key is damaged")
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	header, err := json.Marshal(map[string]string{"alg": "ES256", "kid": profile.BundleKeyID(spki), "typ": "JWT"})
	return &tokenSigner{key, base64.RawURLEncoding.EncodeToString(header)}, err
}

func (t *tokenSigner) sign(item *profilepb.WorkloadItem, now time.Time) (string, error) {
	return t.signClaims(struct {
		Aud []string `json:"aud"`
		Exp int64    `json:"exp"`
		Iat int64    `json:"iat"`
		Sub string   `json:"sub"`
	}{item.GetAudience().GetNames(), now.Unix() + item.GetLife(), now.Unix(), item.GetIdentity()})
}

// signClaims is a JWT with these claims.
func (t *tokenSigner) signClaims(of any) (string, error) {
	claims, err := json.Marshal(of)
	if err != nil {
		return "", err
	}
	text := t.header + "." + base64.RawURLEncoding.EncodeToString(claims)
	digest := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, t.key, digest[:])
	if err != nil {
		return "", err
	}
	var raw [2 * scalarLen]byte
	r.FillBytes(raw[:scalarLen])
	s.FillBytes(raw[scalarLen:])
	return text + "." + base64.RawURLEncoding.EncodeToString(raw[:]), nil
}

// signedBundle is the bundle of a keyset, which is signed once.
type signedBundle struct {
	of     *keyset
	signed *profilepb.SignedWorkloadBundle
}

// bundle tells what tokens are verified with, in the workload CA's words: nobody
// else can have others believe tokens.
func (s *Server) bundle(k *keyset) (*profilepb.SignedWorkloadBundle, error) {
	if s.bundled.of == k {
		return s.bundled.signed, nil
	}
	t, err := newTokenSigner(k)
	if err != nil {
		return nil, err
	}
	defer wipeECDSA(t.key)
	spki, err := x509.MarshalPKIXPublicKey(&t.key.PublicKey)
	if err != nil {
		return nil, err
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&profilepb.WorkloadBundle{ClusterId: k.clusterID, Epoch: k.epoch,
		Keys: []*profilepb.WorkloadKey{{Id: profile.BundleKeyID(spki), Spki: spki}}})
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(profile.BundleInput(b))
	signature, err := scalarSigner{k.workload.PublicKey.(*ecdsa.PublicKey), k.workloadKey}.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	s.bundled = signedBundle{k, &profilepb.SignedWorkloadBundle{Bundle: b, Signature: signature,
		Issuer: &profilepb.CertificateChain{Certificates: [][]byte{k.workload.Raw, k.root.Raw}}}}
	return s.bundled.signed, nil
}
