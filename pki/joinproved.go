package pki

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// errWantsApproval says that nothing was signed, for want of an operator's word.
var errWantsApproval = errors.New("the machine waits for an operator")

// wantsTPM is what the joiner still has to show of its TPM; nil: nothing, or it
// showed all, which the signer judges.
func (s *JoinServer) wantsTPM(ctx context.Context, j *join, t *pkipb.Token, r *profilepb.TokenRecord, p *profilepb.AdmissionPolicy) (*pkipb.AttestWanted, error) {
	switch {
	case !r.GetAttest() && !p.GetAttest():
		if j.GetTpm() != nil || j.GetEvidence() != nil {
			return nil, status.Error(codes.InvalidArgument, "the TPM was not asked for")
		}
		return nil, nil
	case j.GetTpm() == nil:
		return &pkipb.AttestWanted{}, nil
	case j.GetEvidence() != nil:
		return nil, nil
	}
	credential, err := s.cfg.Signer.Challenge(ctx, Challenge{Token: t.GetSigned(), Exporter: j.exporter, Policy: p, TPM: j.GetTpm()})
	if no := (*UnprovedError)(nil); errors.As(err, &no) {
		return nil, status.Error(codes.PermissionDenied, no.Error())
	}
	if err != nil {
		s.cfg.Logger.Error("making a challenge failed", "token", t.GetId(), "error", err)
		return nil, errJoinInternal
	}
	wanted := &pkipb.AttestWanted{Credential: credential}
	for _, rule := range p.GetPcrs() {
		wanted.Pcrs = append(wanted.Pcrs, rule.GetIndex())
	}
	return wanted, nil
}

// wait has the joiner ask again, until an operator has decided.
func (s *JoinServer) wait(who PendingNode) (*pkipb.JoinResponse, error) {
	now := time.Now()
	n, first, err := s.cfg.Pending.ask(who, now)
	if err != nil {
		return nil, later(codes.ResourceExhausted, busyPause, "%v", err)
	}
	if first {
		s.cfg.Logger.Info("a machine waits for an operator", "name", n.Name, "source", n.Source, "token", n.TokenID, "fingerprint", n.Fingerprint)
		s.cfg.OnWait(n)
	}
	return &pkipb.JoinResponse{Role: n.Role, Approval: &pkipb.ApprovalWanted{
		AskAfterSeconds: uint32(approvalPause / time.Second), LeftSeconds: uint32(n.Until.Sub(now) / time.Second)}}, nil
}

// attestedKey is the name of the TPM's key in a leaf, or nil.
func attestedKey(chain *profilepb.CertificateChain) ([]byte, error) {
	certs, err := profile.ParseChain(chain)
	if err != nil {
		return nil, err
	}
	id, err := profile.NodeFromCert(certs[0])
	return id.TPM, err
}
