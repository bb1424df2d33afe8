package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// machineTPM is this machine's TPM, by way of keyd, which says why where there is
// none.
type machineTPM struct{ keyd *keydclient.Client }

var _ pki.TPM = machineTPM{}

func (t machineTPM) Identity(ctx context.Context) (*profilepb.TPMIdentity, error) {
	d, err := t.keyd.DescribeTPM(ctx)
	return d.GetIdentity(), err
}

func (t machineTPM) Join(ctx context.Context, statement []byte, c *profilepb.TPMCredential, pcrs []uint32) (*profilepb.TPMEvidence, error) {
	return t.attest(ctx, &keydpb.AttestRequest{Purpose: keydpb.TPMPurpose_TPM_PURPOSE_JOIN, Statement: statement, Credential: c, Pcrs: pcrs})
}

func (t machineTPM) Renew(ctx context.Context, statement []byte) (*profilepb.TPMEvidence, error) {
	return t.attest(ctx, &keydpb.AttestRequest{Purpose: keydpb.TPMPurpose_TPM_PURPOSE_RENEW, Statement: statement})
}

func (t machineTPM) Promote(ctx context.Context, statement []byte) (*profilepb.TPMEvidence, error) {
	return t.attest(ctx, &keydpb.AttestRequest{Purpose: keydpb.TPMPurpose_TPM_PURPOSE_PROMOTE, Statement: statement})
}

func (t machineTPM) attest(ctx context.Context, req *keydpb.AttestRequest) (*profilepb.TPMEvidence, error) {
	resp, err := t.keyd.Attest(ctx, req)
	return resp.GetEvidence(), err
}

// protectLeaf is a leaf as it is kept: with its key sealed by the TPM where the node
// proved one, and else with a key that only the file's mode protects.
func (n *Node) protectLeaf(ctx context.Context, chain *profilepb.CertificateChain, key *ecdsa.PrivateKey, attested bool) (*leafFile, error) {
	if !attested {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		return &leafFile{Chain: chain.GetCertificates(), Key: der}, err
	}
	raw, err := key.Bytes()
	if err != nil {
		return nil, err
	}
	defer clear(raw)
	sealed, err := n.keyd.SealToTPM(ctx, raw)
	if err != nil {
		return nil, fmt.Errorf("sealing the certificate's key to the TPM: %w", err)
	}
	return &leafFile{Chain: chain.GetCertificates(), TPM: sealed}, nil
}

// leafKey is the key of a leaf that protectLeaf made. It waits for a keyd that does
// not answer, which the status tells, and returns what one says that does: keyd itself
// does not wait for ever for the TPM.
func (n *Node) leafKey(ctx context.Context, l *leafFile) (*ecdsa.PrivateKey, error) {
	if len(l.TPM) == 0 {
		return parseKey(l.Key)
	}
	n.setPhase(controlpb.NodePhase_NODE_PHASE_STARTING, nil, "waiting for this machine's TPM, which holds the key of the node's certificate")
	for {
		raw, err := n.keyd.OpenByTPM(ctx, l.TPM)
		if err == nil {
			defer clear(raw)
			return ecdsa.ParseRawPrivateKey(elliptic.P256(), raw)
		}
		if no := (*keydclient.Error)(nil); errors.As(err, &no) {
			return nil, fmt.Errorf("the key of this node's certificate is sealed by its TPM: %w", err)
		}
		n.setPhase(controlpb.NodePhase_NODE_PHASE_STARTING, nil, "waiting for keyd, which has this machine's TPM open the key of the node's certificate: %v", err)
		if err := sleep(ctx, retryKeyd); err != nil {
			return nil, err
		}
	}
}

// tpmTold bounds what a status waits for the TPM.
const tpmTold = 5 * time.Second

// tpmHash is the hash of the endorsement key of this machine's TPM; nil where there is
// none, or none that answers soon.
func (n *Node) tpmHash(ctx context.Context) []byte {
	ctx, cancel := context.WithTimeout(ctx, tpmTold)
	defer cancel()
	d, err := n.keyd.DescribeTPM(ctx)
	if err != nil {
		return nil
	}
	return d.GetEkHash()
}

// attestedBy reports whether a leaf names a TPM.
func attestedBy(chain *profilepb.CertificateChain) bool {
	attested, err := pki.Attested(chain)
	return err == nil && attested
}
