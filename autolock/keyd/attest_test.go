package keyd

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/internal/tpm/tpmtest"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// joiner is a machine with a TPM that would join c's cluster.
type joiner struct {
	*instance
	c      *cluster
	tpm    *keydpb.DescribeTPMResponse
	policy *profilepb.AdmissionPolicy
	tok    *token
	key    *ecdsa.PrivateKey // of the last request
}

func newJoiner(t *testing.T, c *cluster, d *tpmtest.Device) *joiner {
	t.Helper()
	j := &joiner{instance: startOn(t, t.TempDir(), d), c: c, policy: &profilepb.AdmissionPolicy{}}
	var err error
	if j.tpm, err = j.DescribeTPM(t.Context()); err != nil {
		t.Fatal(err)
	}
	j.policy.EkAllowed = [][]byte{j.tpm.EkHash}
	j.tok = c.mint(t, worker, func(r *profilepb.TokenRecord) { r.Attest, r.MaxUses = true, 100 })
	return j
}

// prove is what a manager is asked to sign of an honest joiner on one connection.
func (j *joiner) prove(t *testing.T) *keydpb.SignJoinRequest {
	t.Helper()
	j.key = newKey(t)
	req := j.tok.join(t, newCSR(t, j.key, nil), nil)
	j.attest(t, req)
	return req
}

func (j *joiner) attest(t *testing.T, req *keydpb.SignJoinRequest) {
	t.Helper()
	challenge, err := j.c.Challenge(t.Context(), &keydpb.ChallengeRequest{Token: req.Token, Exporter: req.Exporter, Policy: j.policy, Tpm: j.tpm.Identity})
	if err != nil {
		t.Fatal(err)
	}
	var pcrs []uint32
	for _, r := range j.policy.Pcrs {
		pcrs = append(pcrs, r.Index)
	}
	e, err := j.Attest(t.Context(), &keydpb.AttestRequest{Purpose: keydpb.TPMPurpose_TPM_PURPOSE_JOIN, Credential: challenge.Credential, Pcrs: pcrs,
		Statement: profile.JoinProofInput(req.Exporter, req.Csr, req.BootCsr, j.tok.id)})
	if err != nil {
		t.Fatal(err)
	}
	req.Policy, req.Tpm, req.Evidence = j.policy, j.tpm.Identity, e.Evidence
}

func wantAttestation(t *testing.T, err error, want string) {
	t.Helper()
	if keydclient.CodeOf(err) != keydpb.Code_CODE_ATTESTATION || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want a refusal of the TPM with %q", err, want)
	}
}

func TestAttestedJoin(t *testing.T) {
	c, machine := newCluster(t), tpmtest.New(t)
	zero := make([]byte, sha256.Size)
	j, stranger := newJoiner(t, c, machine), newJoiner(t, c, tpmtest.New(t))
	j.policy.Pcrs = []*profilepb.PCRRule{{Index: 0, Values: [][]byte{zero}}, {Index: 7, Values: [][]byte{make([]byte, 32)}}}

	for name, test := range map[string]struct {
		change func(req *keydpb.SignJoinRequest)
		want   string
	}{
		"nothing proved":             {func(r *keydpb.SignJoinRequest) { r.Tpm, r.Evidence = nil, nil }, "prove their TPM"},
		"no evidence":                {func(r *keydpb.SignJoinRequest) { r.Evidence = nil }, "prove their TPM"},
		"not allowed any more":       {func(r *keydpb.SignJoinRequest) { r.Policy = &profilepb.AdmissionPolicy{} }, "allow-list"},
		"challenge not opened":       {func(r *keydpb.SignJoinRequest) { r.Evidence.Secret = zero }, "challenge"},
		"evidence of another":        {func(r *keydpb.SignJoinRequest) { o := stranger.prove(t); r.Evidence = o.Evidence }, "challenge"},
		"another's TPM and evidence": {func(r *keydpb.SignJoinRequest) { o := stranger.prove(t); r.Tpm, r.Evidence = o.Tpm, o.Evidence }, "allow-list"},
		"another's quote": {func(r *keydpb.SignJoinRequest) {
			o := stranger.prove(t)
			r.Evidence.Quote, r.Evidence.Signature, r.Evidence.Values = o.Evidence.Quote, o.Evidence.Signature, o.Evidence.Values
		}, "not signed by"},
		"another's key": {func(r *keydpb.SignJoinRequest) { r.Evidence.Ak = stranger.tpm.Identity.Ak }, "another key"},
		"replayed on another connection": {func(r *keydpb.SignJoinRequest) {
			o := j.prove(t)
			r.Evidence = o.Evidence
		}, "challenge"},
		"quote of another connection": {func(r *keydpb.SignJoinRequest) {
			o := j.prove(t)
			r.Evidence.Quote, r.Evidence.Signature = o.Evidence.Quote, o.Evidence.Signature
		}, "another request"},
		"register": {func(r *keydpb.SignJoinRequest) {
			r.Policy = proto.CloneOf(r.Policy)
			r.Policy.Pcrs[1].Values = [][]byte{append([]byte{1}, zero[1:]...)}
		}, "register (PCR) 7"},
		"registers not shown": {func(r *keydpb.SignJoinRequest) {
			r.Policy = proto.CloneOf(r.Policy)
			r.Policy.Pcrs = append(r.Policy.Pcrs, &profilepb.PCRRule{Index: 8, Values: [][]byte{zero}})
		}, "other registers"},
		"values made up": {func(r *keydpb.SignJoinRequest) { r.Evidence.Values[1] = append([]byte{1}, zero[1:]...) }, "not those that the TPM signed"},
	} {
		t.Run(name, func(t *testing.T) {
			req := j.prove(t)
			req.Tpm, req.Evidence = proto.CloneOf(req.Tpm), proto.CloneOf(req.Evidence)
			test.change(req)
			_, err := c.SignJoin(t.Context(), req)
			wantAttestation(t, err, test.want)
		})
	}
	_, err := c.Challenge(t.Context(), &keydpb.ChallengeRequest{Token: j.tok.signed, Exporter: make([]byte, 32), Policy: j.policy, Tpm: stranger.tpm.Identity})
	wantAttestation(t, err, "allow-list")

	req := j.prove(t)
	signed, err := c.SignJoin(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := profile.ParseChain(signed.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	id, err := profile.NodeFromCert(chain[0])
	if err != nil || string(id.TPM) != string(j.tpm.AkName) || string(signed.TpmEk) != string(j.tpm.EkHash) {
		t.Fatalf("the leaf names the TPM %x (%v), want %x", id.TPM, err, j.tpm.AkName)
	}
	testAttestedRenewal(t, j, stranger, signed.Leaf)
}

// testAttestedRenewal renews a leaf that names j's TPM, with the words of several.
func testAttestedRenewal(t *testing.T, j, stranger *joiner, leaf *profilepb.CertificateChain) {
	old := leaf.Certificates[0]
	csr := newCSR(t, newKey(t), nil)
	proof, err := profile.SignRenewProof(j.key, csr, nil, old)
	if err != nil {
		t.Fatal(err)
	}
	word := func(by *joiner, purpose keydpb.TPMPurpose, csr []byte) *profilepb.TPMEvidence {
		e, err := by.Attest(t.Context(), &keydpb.AttestRequest{Purpose: purpose, Statement: profile.RenewProofInput(csr, nil, old)})
		if err != nil {
			t.Fatal(err)
		}
		return e.Evidence
	}
	const renew, promote = keydpb.TPMPurpose_TPM_PURPOSE_RENEW, keydpb.TPMPurpose_TPM_PURPOSE_PROMOTE
	req := &keydpb.SignRenewRequest{Old: leaf, Csr: csr, Proof: proof}
	for want, e := range map[string]*profilepb.TPMEvidence{
		"is missing":      nil,
		"another TPM":     word(stranger, renew, csr),
		"another request": word(j, promote, csr),
		"for another req": word(j, renew, newCSR(t, newKey(t), nil)),
	} {
		req.Evidence = e
		_, err := j.c.SignRenew(t.Context(), req)
		wantAttestation(t, err, want)
	}
	req.Evidence = word(j, renew, csr)
	renewed, err := j.c.SignRenew(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := profile.ParseChain(renewed.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := profile.NodeFromCert(chain[0]); err != nil || string(id.TPM) != string(j.tpm.AkName) {
		t.Errorf("the renewed leaf names the TPM %x (%v)", id.TPM, err)
	}
}

// The CA of a maker vouches for its TPMs, and for no other.
func TestAttestedByCA(t *testing.T) {
	c, machine := newCluster(t), tpmtest.Certified(t)
	j := newJoiner(t, c, machine)
	j.policy = &profilepb.AdmissionPolicy{EkCas: [][]byte{machine.CA.Raw}}
	if _, err := c.SignJoin(t.Context(), j.prove(t)); err != nil {
		t.Error(err)
	}
	other := newJoiner(t, c, tpmtest.New(t))
	_, err := c.Challenge(t.Context(), &keydpb.ChallengeRequest{Token: j.tok.signed, Exporter: make([]byte, 32), Policy: j.policy, Tpm: other.tpm.Identity})
	wantAttestation(t, err, "allow-list")
}

func TestApproval(t *testing.T) {
	c := newCluster(t)
	j := start(t, t.TempDir())
	keydKey, err := j.PrepareJoin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, policy := range map[string]*profilepb.AdmissionPolicy{"token": nil, "policy": {ApproveManagers: true}} {
		tok := c.mint(t, manager, func(r *profilepb.TokenRecord) { r.Approve = policy == nil })
		req := tok.join(t, newCSR(t, newKey(t), keydKey), newCSR(t, newKey(t), nil))
		req.Policy = policy
		for range 2 { // it asks again
			if r, err := c.SignJoin(t.Context(), req); err != nil || !r.WantsApproval || r.Leaf != nil {
				t.Errorf("%s: %v, %v", name, r, err)
			}
		}
		req.Approved = true
		if r, err := c.SignJoin(t.Context(), req); err != nil || r.WantsApproval || r.Leaf == nil {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	rec, _ := newRecord(t, worker)
	rec.Approve = true
	if _, err := c.MintToken(t.Context(), &keydpb.MintTokenRequest{Record: rec}); err == nil {
		t.Error("a worker's token wants an approval")
	}
}

func TestSealToTPM(t *testing.T) {
	d := tpmtest.New(t)
	k := startOn(t, t.TempDir(), d)
	raw, err := newKey(t).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := k.SealToTPM(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.OpenByTPM(t.Context(), sealed); err != nil || string(got) != string(raw) {
		t.Errorf("%x, %v", got, err)
	}
	if _, err := k.SealToTPM(t.Context(), make([]byte, 32)); err == nil {
		t.Error("what is no key was sealed")
	}
	if _, err := startOn(t, t.TempDir(), tpmtest.New(t)).OpenByTPM(t.Context(), sealed); keydclient.CodeOf(err) != keydpb.Code_CODE_NO_TPM {
		t.Errorf("another TPM: %v", err)
	}
	// redoubtd gets no seed of a slot.
	c := newCluster(t)
	c.onMachine(t, tpmtest.New(t))
	c.unlock(t)
	slot := c.addTPMSlot(t, 2)
	if _, err := c.OpenByTPM(t.Context(), c.server.ownSeedOf(slot.Id).sealed); keydclient.CodeOf(err) != keydpb.Code_CODE_NO_TPM {
		t.Errorf("a slot's seed: %v", err)
	}
}
