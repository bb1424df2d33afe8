package control

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// GetAdmission returns what is demanded of machines that join.
func (s *Server) GetAdmission(ctx context.Context, _ *controlpb.GetAdmissionRequest) (*controlpb.GetAdmissionResponse, error) {
	resp := &controlpb.GetAdmissionResponse{}
	err := s.view(ctx, func(r *raftstore.ReadTx) error {
		c, err := pkistore.GetCluster(r)
		resp.Policy = policyOf(c.GetAdmission())
		return err
	})
	return resp, err
}

func policyOf(p *profilepb.AdmissionPolicy) *profilepb.AdmissionPolicy {
	if p == nil {
		return &profilepb.AdmissionPolicy{}
	}
	return proto.CloneOf(p)
}

// UpdateAdmission changes what is named. Who is a member stays one.
func (s *Server) UpdateAdmission(ctx context.Context, req *controlpb.UpdateAdmissionRequest) (*controlpb.UpdateAdmissionResponse, error) {
	resp := &controlpb.UpdateAdmissionResponse{}
	err := s.update(ctx, func(tx *raftstore.Tx) error {
		c, err := pkistore.GetCluster(tx)
		if err != nil {
			return err
		}
		p := policyOf(c.GetAdmission())
		change(p, req)
		if err := checkPolicy(p); err != nil {
			return err
		}
		c = proto.CloneOf(c)
		if c.Admission = p; proto.Size(p) == 0 {
			c.Admission = nil
		}
		resp.Policy = p
		return pkistore.Cluster.Put(tx, c)
	})
	if err == nil {
		s.c.Logger.InfoContext(ctx, "what is demanded of machines that join was changed", "attest", resp.Policy.GetAttest(), "approve_managers", resp.Policy.GetApproveManagers(),
			"allowed", len(resp.Policy.GetEkAllowed()), "cas", len(resp.Policy.GetEkCas()), "pcrs", len(resp.Policy.GetPcrs()))
	}
	return resp, err
}

func change(p *profilepb.AdmissionPolicy, req *controlpb.UpdateAdmissionRequest) {
	if req.Attest != nil {
		p.Attest = req.GetAttest()
	}
	if req.ApproveManagers != nil {
		p.ApproveManagers = req.GetApproveManagers()
	}
	has := func(list [][]byte, h []byte) bool {
		return slices.ContainsFunc(list, func(o []byte) bool { return bytes.Equal(o, h) })
	}
	for _, h := range req.GetAllow() {
		if !has(p.EkAllowed, h) {
			p.EkAllowed = append(p.EkAllowed, h)
		}
	}
	p.EkAllowed = slices.DeleteFunc(p.EkAllowed, func(h []byte) bool { return has(req.GetDisallow(), h) })
	if req.GetClearCas() || len(req.GetEkCas()) > 0 {
		p.EkCas = req.GetEkCas()
	}
	if req.GetClearPcrs() || len(req.GetPcrs()) > 0 {
		p.Pcrs = slices.SortedFunc(slices.Values(req.GetPcrs()), func(a, b *profilepb.PCRRule) int { return cmp.Compare(a.GetIndex(), b.GetIndex()) })
	}
}

// checkPolicy refuses what no machine could ever meet, and what is out of bounds.
func checkPolicy(p *profilepb.AdmissionPolicy) error {
	switch {
	case len(p.GetEkAllowed()) > maxAllowed || len(p.GetEkCas()) > maxEKCAs:
		return apierr.Invalid("", "at most %d TPMs are allowed by their hash, and %d CAs", maxAllowed, maxEKCAs)
	case p.GetAttest() && !pki.BelievesTPMs(p):
		return apierr.State("allow one in the same command: `redoubt admission set --allow HASH`, or --ek-ca FILE", "every machine would have to prove a TPM, and none is believed")
	}
	for _, h := range p.GetEkAllowed() {
		if len(h) != sha256.Size {
			return apierr.Invalid("", "the hash of an endorsement key has %d bytes, not %d", sha256.Size, len(h))
		}
	}
	for _, der := range p.GetEkCas() {
		c, err := x509.ParseCertificate(der)
		if err != nil || len(der) > maxEKCA || !c.IsCA {
			return apierr.Invalid("", "what certifies endorsement keys must be a CA's certificate")
		}
	}
	for i, r := range p.GetPcrs() {
		switch {
		case r.GetIndex() >= autolock.Registers || i > 0 && r.GetIndex() == p.GetPcrs()[i-1].GetIndex():
			return apierr.Invalid("", "registers (PCR) are 0 to %d, each once", autolock.Registers-1)
		case len(r.GetValues()) == 0 || len(r.GetValues()) > maxPCRValues:
			return apierr.Invalid("", "a register has 1 to %d values that are allowed", maxPCRValues)
		case slices.ContainsFunc(r.GetValues(), func(v []byte) bool { return len(v) != sha256.Size }):
			return apierr.Invalid("", "the value of a register is a SHA-256, %d bytes", sha256.Size)
		}
	}
	return nil
}

// ListPending returns the machines that wait for an operator.
func (s *Server) ListPending(context.Context, *controlpb.ListPendingRequest) (*controlpb.ListPendingResponse, error) {
	resp := &controlpb.ListPendingResponse{}
	for _, n := range s.c.Pending.List(time.Now()) {
		resp.Nodes = append(resp.Nodes, pendingView(n))
	}
	return resp, nil
}

// DecidePending approves a machine, or denies it and revokes the token that it has:
// that is in the wrong hands.
func (s *Server) DecidePending(ctx context.Context, req *controlpb.DecidePendingRequest) (*controlpb.DecidePendingResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	n, err := s.c.Pending.Decide(ctx, s.c.Store, req.GetNode(), req.GetApprove())
	if errors.Is(err, pki.ErrNotPending) {
		return nil, apierr.NotFound("", "%v", err)
	}
	if err != nil {
		return nil, err
	}
	s.c.Logger.InfoContext(ctx, "a machine that waited was decided on", "name", n.Name, "source", n.Source, "fingerprint", n.Fingerprint, "approved", req.GetApprove())
	return &controlpb.DecidePendingResponse{Node: pendingView(n)}, nil
}

func pendingView(n pki.PendingNode) *controlpb.PendingNode {
	return &controlpb.PendingNode{Id: n.ID, Name: n.Name, Role: n.Role, TokenId: n.TokenID, Source: n.Source, Fingerprint: n.Fingerprint, Until: n.Until.Unix(), TpmEk: n.TPMEK}
}
