package keyd

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/internal/tpm"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// What a TPM vouches for, by the names that its quote has: docs/formats.md.
const (
	purposeJoin    = "join"
	purposeRenew   = "renew"
	purposePromote = "promote"
)

var purposes = map[keydpb.TPMPurpose]string{
	keydpb.TPMPurpose_TPM_PURPOSE_JOIN:    purposeJoin,
	keydpb.TPMPurpose_TPM_PURPOSE_RENEW:   purposeRenew,
	keydpb.TPMPurpose_TPM_PURPOSE_PROMOTE: purposePromote,
}

// unproved says that a machine did not prove its TPM.
func unproved(format string, args ...any) error {
	return refuse(keydpb.Code_CODE_ATTESTATION, format, args...)
}

func wantsTPM(rec *profilepb.TokenRecord, p *profilepb.AdmissionPolicy) bool {
	return rec.GetAttest() || p.GetAttest()
}

func wantsApproval(rec *profilepb.TokenRecord, p *profilepb.AdmissionPolicy) bool {
	return rec.GetRole() == profilepb.Role_ROLE_MANAGER && (rec.GetApprove() || p.GetApproveManagers())
}

// challenge makes what only the TPM opens that the joiner names, if the policy
// trusts that one. Nothing is kept: the secret is made from the connection.
func (s *Server) challenge(req *keydpb.ChallengeRequest) (*keydpb.ChallengeResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	rec, err := opened.keyset.openToken(req.GetToken(), now)
	if err != nil {
		return nil, err
	}
	if len(req.GetExporter()) != profile.ExporterLen {
		return nil, invalid("the exporter is %d bytes, not %d", len(req.GetExporter()), profile.ExporterLen)
	}
	if err := s.issues.check(issueRate, now); err != nil {
		return nil, err
	}
	if err := checkTrusted(req.GetPolicy(), req.GetTpm(), now); err != nil {
		return nil, err
	}
	c, err := tpm.MakeCredential(req.GetTpm().GetEk(), req.GetTpm().GetAk(), s.challengeSecret(rec.GetId(), req.GetExporter(), req.GetTpm()))
	if err != nil {
		return nil, unproved("%s", oneline.Text(err.Error(), maxSaid))
	}
	return &keydpb.ChallengeResponse{Credential: &profilepb.TPMCredential{Blob: c.Blob, Secret: c.Secret}}, nil
}

// challengeSecret is what a challenge holds: of one connection, token and TPM.
func (s *Server) challengeSecret(tokenID string, exporter []byte, id *profilepb.TPMIdentity) []byte {
	b := lp.Append([]byte("redoubt tpm challenge v1\x00"), []byte(tokenID))
	b = lp.Append(b, exporter)
	b = lp.Append(b, id.GetEk())
	h := hmac.New(sha256.New, s.challenges[:])
	h.Write(lp.Append(b, id.GetAk()))
	return h.Sum(nil)
}

// checkTrusted returns an error unless the policy trusts that TPM.
func checkTrusted(p *profilepb.AdmissionPolicy, id *profilepb.TPMIdentity, now time.Time) error {
	trust := tpm.Trust{Allowed: p.GetEkAllowed()}
	for _, der := range p.GetEkCas() {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			return invalid("the admission policy has a malformed certificate")
		}
		trust.CAs = append(trust.CAs, ca)
	}
	if err := trust.CheckEK(id.GetEk(), id.GetEkCertificate(), now); err != nil {
		return unproved("%s", oneline.Text(err.Error(), maxSaid))
	}
	if _, err := tpm.CheckAK(id.GetAk()); err != nil {
		return unproved("%s", oneline.Text(err.Error(), maxSaid))
	}
	return nil
}

// admit judges a joiner's TPM where token or policy demand one. It returns the name
// of its attestation key and the hash of its endorsement key, or nil.
func (s *Server) admit(rec *profilepb.TokenRecord, req *keydpb.SignJoinRequest, now time.Time) (name, ek []byte, err error) {
	policy, id, e := req.GetPolicy(), req.GetTpm(), req.GetEvidence()
	switch {
	case !wantsTPM(rec, policy):
		return nil, nil, nil
	case id == nil || e == nil:
		return nil, nil, unproved("only machines are admitted that prove their TPM: name it in config.yaml (keyd.tpm), restart redoubt-node and join again")
	}
	if err := checkTrusted(policy, id, now); err != nil {
		return nil, nil, err
	}
	secret := s.challengeSecret(rec.GetId(), req.GetExporter(), id)
	if subtle.ConstantTimeCompare(secret, e.GetSecret()) != 1 {
		return nil, nil, unproved("the TPM did not open this connection's challenge")
	}
	var pcrs []int
	for _, r := range policy.GetPcrs() {
		pcrs = append(pcrs, int(r.GetIndex()))
	}
	text := profile.JoinProofInput(req.GetExporter(), req.GetCsr(), req.GetBootCsr(), rec.GetId())
	if !bytes.Equal(e.GetAk(), id.GetAk()) {
		return nil, nil, unproved("the evidence is of another key than the TPM's")
	}
	if err := tpm.CheckEvidence(e.GetAk(), tpm.Statement{Purpose: purposeJoin, Text: text, Secret: secret}, pcrs, evidenceOf(e)); err != nil {
		return nil, nil, unproved("%s", oneline.Text(err.Error(), maxSaid))
	}
	for i, r := range policy.GetPcrs() {
		if !slices.ContainsFunc(r.GetValues(), func(v []byte) bool { return bytes.Equal(v, e.GetValues()[i]) }) {
			return nil, nil, unproved("register (PCR) %d of the machine is %x, which the admission policy does not allow: it was started otherwise", r.GetIndex(), e.GetValues()[i])
		}
	}
	if name, err = tpm.CheckAK(id.GetAk()); err == nil {
		ek, err = tpm.EKHash(id.GetEk())
	}
	return name, ek, err
}

func evidenceOf(e *profilepb.TPMEvidence) tpm.Evidence {
	return tpm.Evidence{Quote: e.GetQuote(), Signature: e.GetSignature(), Values: e.GetValues()}
}

// checkVouched returns an error unless the TPM that a leaf names vouches for what
// its holder asks. A leaf that names none needs no word.
func checkVouched(id profile.Identity, purpose string, text []byte, e *profilepb.TPMEvidence) error {
	if id.TPM == nil {
		return nil
	}
	if e == nil {
		return unproved("the leaf in use names a TPM, whose word for this request is missing")
	}
	name, err := tpm.CheckAK(e.GetAk())
	if err != nil {
		return unproved("%s", oneline.Text(err.Error(), maxSaid))
	}
	if !bytes.Equal(name, id.TPM) {
		return unproved("the evidence is of another TPM than the one in the leaf")
	}
	if err := tpm.CheckEvidence(e.GetAk(), tpm.Statement{Purpose: purpose, Text: text}, nil, evidenceOf(e)); err != nil {
		return unproved("%s", oneline.Text(err.Error(), maxSaid))
	}
	return nil
}
