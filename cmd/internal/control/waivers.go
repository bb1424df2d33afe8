package control

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/resolve"
	"github.com/redoubt-cluster/redoubt/threatmodel/control"
)

// whoCalls is the caller as roles know it.
func whoCalls(ctx context.Context) (roles.Principal, error) {
	id, ok := authz.FromContext(ctx)
	if !ok {
		return roles.Principal{}, apierr.Denied("", "nobody said who calls")
	}
	p, err := roles.FromIdentity(id)
	if err != nil {
		return p, apierr.Denied("", "%v", err)
	}
	return p, nil
}

// waiverApprove is the verb of who approves waivers.
const waiverApprove = "waiver.approve"

// sameName reports whether who asked is a user of some machine by the name of that
// person: who is both answers for themselves.
func sameName(asked, person roles.Principal) bool {
	return asked.Kind == pkipb.Principal_KIND_LOCAL_USER && asked.Name == person.Name
}

// CreateWaiver implements Waivers. What is asked for waives nothing: whoever is
// judged by a control could ask for it.
func (s *Server) CreateWaiver(ctx context.Context, req *controlpb.CreateWaiverRequest) (*controlpb.CreateWaiverResponse, error) {
	by, err := whoCalls(ctx)
	if err != nil {
		return nil, err
	}
	approver := roles.Principal{Kind: pkipb.Principal_KIND_PERSON, Name: req.GetApprover()}
	if approver == by || sameName(by, approver) {
		return nil, apierr.Denied("name another person", "nobody approves a waiver of their own")
	}
	if err := checkWaiver(req); err != nil {
		return nil, err
	}
	w := &pkipb.Waiver{Id: ident.New(), Control: req.GetControl(), Reason: req.GetReason(), ExpiresAt: req.GetExpiresAt(), AskedBy: by.Record(), Approver: approver.Record(), Evidence: req.GetEvidence()}
	err = s.update(ctx, func(tx *raftstore.Tx) error {
		if left := time.Unix(w.ExpiresAt, 0).Sub(tx.Now()); left <= 0 || left > maxWaived {
			return apierr.Invalid("", "a waiver ends in the future, and within %d days", maxWaived/(24*time.Hour))
		}
		if p, ok := pkistore.People.Get(tx, approver.Name); !ok || p.GetDenied() {
			return apierr.NotFound("see `redoubt person ls`, or invite one: `redoubt person invite`", "there is no person %q to approve it", ident.Clip(approver.Name))
		}
		d, err := s.c.Roles.Decide(tx, approver, waiverApprove, roles.Resource{})
		if err != nil {
			return err
		}
		if !d.Allowed {
			return apierr.State("`redoubt auth bind` a role with it, or name another person", "%s may not %s", roles.Named(tx, approver), waiverApprove)
		}
		w.Node = ""
		if req.GetNode() != "" {
			n, err := resolveNode(tx, req.GetNode())
			if err != nil {
				return err
			}
			w.Node = n.GetId()
		}
		if pkistore.Waivers.Count(tx) >= maxWaivers {
			return apierr.State("`redoubt compliance waiver rm` those that ended", "there are %d waivers: at most %d are allowed", maxWaivers, maxWaivers)
		}
		for old := range pkistore.Waivers.All(tx) {
			if old.GetControl() == w.Control && old.GetNode() == w.Node {
				return apierr.Exists("`redoubt compliance waiver rm "+old.GetId()+"` first", "there is a waiver of %s already: %s", w.Control, old.GetId())
			}
		}
		return pkistore.Waivers.Put(tx, w)
	})
	if err != nil {
		return nil, err
	}
	s.c.Logger.InfoContext(ctx, "a waiver was asked for", "waiver", w.Id, "control", w.Control, "approver", approver.Name)
	return &controlpb.CreateWaiverResponse{Id: w.Id}, nil
}

// checkWaiver returns an error unless what is asked for can be waived at all.
func checkWaiver(req *controlpb.CreateWaiverRequest) error {
	all := control.All()
	i := slices.IndexFunc(all, func(c control.Control) bool { return c.ID == req.GetControl() })
	if i < 0 {
		return apierr.NotFound("`redoubt compliance profiles redoubt-baseline` lists them", "no control is called %q", ident.Clip(req.GetControl()))
	}
	ofNode := !all[i].OfCluster()
	reason := req.GetReason()
	switch {
	case ofNode && req.GetNode() == "":
		return apierr.Invalid("as --scope node/NAME", "%s is of each node: name the one", all[i].ID)
	case !ofNode && req.GetNode() != "":
		return apierr.Invalid("--scope cluster", "%s is of the whole cluster", all[i].ID)
	case strings.TrimSpace(reason) == "":
		return apierr.Invalid("say why: it is in every report", "a waiver needs a reason")
	case len(req.GetEvidence()) == 0 || len(req.GetEvidence()) > maxWaivedLines:
		return apierr.Invalid("", "a waiver is for 1 to %d lines of evidence, as a report has them", maxWaivedLines)
	}
	if err := ident.CheckLine("the reason", reason, maxReason); err != nil {
		return apierr.Invalid("", "%v", err)
	}
	if slices.ContainsFunc(req.GetEvidence(), control.LeftOff) {
		return apierr.Invalid("mend some of it, and run the report again", "a waiver is for lines that somebody has seen, and there are more of them than a report has")
	}
	for _, line := range req.GetEvidence() {
		if line == "" || line != oneline.Text(line, maxWaivedLine) {
			return apierr.Invalid("", "evidence is lines of at most %d bytes, as a report has them", maxWaivedLine)
		}
	}
	return nil
}

// ApproveWaiver implements Waivers.
func (s *Server) ApproveWaiver(ctx context.Context, req *controlpb.ApproveWaiverRequest) (*controlpb.ApproveWaiverResponse, error) {
	by, err := whoCalls(ctx)
	if err != nil {
		return nil, err
	}
	resp := &controlpb.ApproveWaiverResponse{}
	err = s.update(ctx, func(tx *raftstore.Tx) error {
		w, err := waiver(tx, req.GetId())
		if err != nil {
			return err
		}
		switch {
		case roles.PrincipalOf(w.GetApprover()) != by || roles.PrincipalOf(w.GetAskedBy()) == by || sameName(roles.PrincipalOf(w.GetAskedBy()), by):
			return apierr.Denied("", "waiver %s is for %s to approve", w.GetId(), roles.Named(tx, roles.PrincipalOf(w.GetApprover())))
		case w.GetApprovedAt() != 0:
			return apierr.State("", "waiver %s was approved already", w.GetId())
		case !time.Unix(w.GetExpiresAt(), 0).After(tx.Now()):
			return apierr.State("have it asked for again", "waiver %s has ended", w.GetId())
		}
		w = proto.CloneOf(w)
		w.ApprovedAt = tx.Now().Unix()
		resp.Waiver = waiverView(tx, w, tx.Now())
		return pkistore.Waivers.Put(tx, w)
	})
	if err != nil {
		return nil, err
	}
	s.c.Logger.InfoContext(ctx, "a waiver was approved", "waiver", resp.GetWaiver().GetId(), "approver", by.Name)
	return resp, nil
}

// ListWaivers implements Waivers.
func (s *Server) ListWaivers(ctx context.Context, _ *controlpb.ListWaiversRequest) (*controlpb.ListWaiversResponse, error) {
	resp := &controlpb.ListWaiversResponse{}
	return resp, s.view(ctx, func(r *raftstore.ReadTx) error {
		now := time.Now()
		if c := r.Clock(); c.After(now) {
			now = c
		}
		for w := range pkistore.Waivers.All(r) {
			resp.Waivers = append(resp.Waivers, waiverView(r, w, now))
		}
		return nil
	})
}

// RemoveWaiver implements Waivers.
func (s *Server) RemoveWaiver(ctx context.Context, req *controlpb.RemoveWaiverRequest) (*controlpb.RemoveWaiverResponse, error) {
	return &controlpb.RemoveWaiverResponse{}, s.update(ctx, func(tx *raftstore.Tx) error {
		w, err := waiver(tx, req.GetId())
		if err != nil {
			return err
		}
		return pkistore.Waivers.Delete(tx, w.GetId())
	})
}

// forgetApprover takes out what waits for a person who is removed: another one of
// that name was not meant.
func forgetApprover(tx *raftstore.Tx, person string) error {
	var gone []string
	for w := range pkistore.Waivers.All(tx) {
		if w.GetApprovedAt() == 0 && w.GetApprover().GetName() == person {
			gone = append(gone, w.GetId())
		}
	}
	for _, id := range gone {
		if err := pkistore.Waivers.Delete(tx, id); err != nil {
			return err
		}
	}
	return nil
}

// waiver finds one by its id, or the beginning of it.
func waiver(tx *raftstore.Tx, ref string) (*pkipb.Waiver, error) {
	if w, ok := pkistore.Waivers.Get(tx, ref); ok {
		return w, nil
	}
	return resolve.Only("waiver", ref, resolve.ByPrefix(pkistore.Waivers, tx, ref))
}

func waiverState(w *pkipb.Waiver, now time.Time) controlpb.WaiverView_State {
	switch {
	case !time.Unix(w.GetExpiresAt(), 0).After(now):
		return controlpb.WaiverView_STATE_EXPIRED
	case w.GetApprovedAt() == 0:
		return controlpb.WaiverView_STATE_WAITING
	}
	return controlpb.WaiverView_STATE_IN_FORCE
}

func waiverView(r raftstore.Reader, w *pkipb.Waiver, now time.Time) *controlpb.WaiverView {
	n, _ := pkistore.Nodes.Get(r, w.GetNode())
	return &controlpb.WaiverView{Id: w.GetId(), Control: w.GetControl(), NodeId: w.GetNode(), NodeName: n.GetName(), Reason: w.GetReason(),
		AskedBy: roles.Named(r, roles.PrincipalOf(w.GetAskedBy())), Approver: roles.Named(r, roles.PrincipalOf(w.GetApprover())),
		ExpiresAt: w.GetExpiresAt(), ApprovedAt: w.GetApprovedAt(), CreatedAt: w.GetMeta().GetCreatedAt(), Evidence: w.GetEvidence(), State: waiverState(w, now)}
}
