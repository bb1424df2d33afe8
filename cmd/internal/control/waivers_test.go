package control_test

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/pki/audit"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
)

// TestWaivers: a waiver needs an end, a control that there is, and another person's
// approval; nobody else can give that, and nobody twice.
func TestWaivers(t *testing.T) {
	w := newWorld(t)
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		for _, p := range []*pkipb.Person{{Id: "alice"}, {Id: "bob"}, {Id: "dave"}, {Id: "eve", Denied: true}} {
			if err := pkistore.People.Put(tx, p); err != nil {
				return err
			}
		}
		if err := roles.CreateRole(tx, "approver", "", []string{"waiver.approve"}); err != nil {
			return err
		}
		_, err := roles.Bind(tx, "approver", roles.Principal{Kind: pkipb.Principal_KIND_PERSON, Name: "bob"}, nil)
		return err
	})
	judge, err := roles.New(w.store, &audit.Log{Store: w.store, Manager: w.manager})
	if err != nil {
		t.Fatal(err)
	}
	w.api = control.New(control.Config{Store: w.store, ClusterID: w.ca.ClusterID, Minter: w.ca, Inviter: w.ca, Roles: judge, Logger: slog.New(slog.DiscardHandler)})
	as := func(person string) context.Context {
		return authz.NewContext(t.Context(), authz.Identity{Person: person, Source: &net.TCPAddr{}})
	}
	root := authz.NewContext(t.Context(), authz.Identity{LocalRoot: true, LocalRootOf: w.manager})
	day := time.Now().Add(24 * time.Hour).Unix()
	good := func(change func(*controlpb.CreateWaiverRequest)) *controlpb.CreateWaiverRequest {
		r := &controlpb.CreateWaiverRequest{Control: "autolock-on", Node: "manager-1", Reason: "it moves", ExpiresAt: day, Approver: "bob", Evidence: []string{"/x opens it"}}
		if change != nil {
			change(r)
		}
		return r
	}
	refused := func(what string, err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	for what, c := range map[string]struct {
		change func(*controlpb.CreateWaiverRequest)
		want   string
	}{
		"no end":           {func(r *controlpb.CreateWaiverRequest) { r.ExpiresAt = 0 }, "ends in the future"},
		"an end before":    {func(r *controlpb.CreateWaiverRequest) { r.ExpiresAt = time.Now().Add(-time.Minute).Unix() }, "ends in the future"},
		"an end too late":  {func(r *controlpb.CreateWaiverRequest) { r.ExpiresAt = time.Now().Add(400 * 24 * time.Hour).Unix() }, "within 366 days"},
		"no end ever":      {func(r *controlpb.CreateWaiverRequest) { r.ExpiresAt = 1<<63 - 1 }, "within 366 days"},
		"no such control":  {func(r *controlpb.CreateWaiverRequest) { r.Control = "nothing" }, `no control is called "nothing"`},
		"the waivers' own": {func(r *controlpb.CreateWaiverRequest) { r.Control, r.Node = "waivers-current", "" }, "no control is called"},
		"no node":          {func(r *controlpb.CreateWaiverRequest) { r.Node = "" }, "is of each node"},
		"no such node":     {func(r *controlpb.CreateWaiverRequest) { r.Node = "nowhere" }, "nowhere"},
		"no reason":        {func(r *controlpb.CreateWaiverRequest) { r.Reason = "  " }, "needs a reason"},
		"a hostile reason": {func(r *controlpb.CreateWaiverRequest) { r.Reason = "a\nb" }, "the reason must be"},
		"a long reason":    {func(r *controlpb.CreateWaiverRequest) { r.Reason = strings.Repeat("x", 501) }, "the reason must be"},
		"no evidence":      {func(r *controlpb.CreateWaiverRequest) { r.Evidence = nil }, "1 to 21 lines"},
		"much evidence":    {func(r *controlpb.CreateWaiverRequest) { r.Evidence = slices.Repeat(r.Evidence, 22) }, "1 to 21 lines"},
		"evidence of more": {func(r *controlpb.CreateWaiverRequest) { r.Evidence = append(r.Evidence, "and 3 more") }, "more of them than a report has"},
		"evidence in two":  {func(r *controlpb.CreateWaiverRequest) { r.Evidence[0] = "a\nb" }, "lines of at most"},
		"who may not":      {func(r *controlpb.CreateWaiverRequest) { r.Approver = "dave" }, "person:dave may not waiver.approve"},
		"by nobody":        {func(r *controlpb.CreateWaiverRequest) { r.Approver = "" }, "there is no person"},
		"by a stranger":    {func(r *controlpb.CreateWaiverRequest) { r.Approver = "carol" }, `there is no person "carol"`},
		"by one revoked":   {func(r *controlpb.CreateWaiverRequest) { r.Approver = "eve" }, `there is no person "eve"`},
		"by themselves":    {func(r *controlpb.CreateWaiverRequest) { r.Approver = "alice" }, "of their own"},
	} {
		_, err := w.api.CreateWaiver(as("alice"), good(c.change))
		refused(what, err, c.want)
	}
	_, err = w.api.CreateWaiver(t.Context(), good(nil))
	refused("by nobody known", err, "nobody said who calls")
	user := authz.NewContext(t.Context(), authz.Identity{User: "bob", UserOf: w.manager})
	_, err = w.api.CreateWaiver(user, good(nil))
	refused("as a user by the approver's name", err, "of their own")

	resp, err := w.api.CreateWaiver(as("alice"), good(nil))
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.api.CreateWaiver(root, good(nil))
	refused("twice", err, "there is a waiver of autolock-on already")
	state := func(want controlpb.WaiverView_State) {
		t.Helper()
		list, err := w.api.ListWaivers(root, &controlpb.ListWaiversRequest{})
		if err != nil || len(list.GetWaivers()) != 1 || list.GetWaivers()[0].GetState() != want {
			t.Errorf("%v, %v, want %v", list, err, want)
		}
	}
	approved := func() bool {
		list, err := w.api.ListWaivers(root, &controlpb.ListWaiversRequest{})
		if err != nil || len(list.GetWaivers()) != 1 {
			t.Fatal(list, err)
		}
		v := list.GetWaivers()[0]
		if v.GetNodeId() != w.manager || v.GetNodeName() != "manager-1" || v.GetAskedBy() != "person:alice" || v.GetApprover() != "person:bob" || v.GetExpiresAt() != day || !slices.Equal(v.GetEvidence(), []string{"/x opens it"}) {
			t.Errorf("%v", v)
		}
		return v.GetApprovedAt() != 0
	}
	id := &controlpb.ApproveWaiverRequest{Id: resp.GetId()}
	for who, ctx := range map[string]context.Context{"who asked": as("alice"), "another": as("eve"), "root": root} {
		_, err := w.api.ApproveWaiver(ctx, id)
		refused(who, err, "is for person:bob to approve")
	}
	if approved() {
		t.Fatal("it is approved")
	}
	_, err = w.api.ApproveWaiver(as("bob"), &controlpb.ApproveWaiverRequest{Id: "other"})
	refused("another id", err, "no waiver")
	state(controlpb.WaiverView_STATE_WAITING)
	if r, err := w.api.ApproveWaiver(as("bob"), &controlpb.ApproveWaiverRequest{Id: resp.GetId()[:8]}); err != nil || !approved() || r.GetWaiver().GetState() != controlpb.WaiverView_STATE_IN_FORCE {
		t.Fatal(r, err)
	}
	state(controlpb.WaiverView_STATE_IN_FORCE)
	_, err = w.api.ApproveWaiver(as("bob"), id)
	refused("again", err, "approved already")

	if _, err := w.api.RemoveWaiver(root, &controlpb.RemoveWaiverRequest{Id: resp.GetId()}); err != nil {
		t.Fatal(err)
	}
	_, err = w.api.RemoveWaiver(root, &controlpb.RemoveWaiverRequest{Id: resp.GetId()})
	refused("removed twice", err, "no waiver")

	// What ended before it was approved never begins; what waits for somebody who is
	// removed is not for the next one of that name.
	if resp, err = w.api.CreateWaiver(root, good(func(r *controlpb.CreateWaiverRequest) { r.ExpiresAt = time.Now().Add(time.Hour).Unix() })); err != nil {
		t.Fatal(err)
	}
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		old, _ := pkistore.Waivers.Get(tx, resp.GetId())
		ended := &pkipb.Waiver{Meta: old.GetMeta(), Id: old.GetId(), Control: old.GetControl(), Node: old.GetNode(), AskedBy: old.GetAskedBy(), Approver: old.GetApprover(), ExpiresAt: 1}
		return pkistore.Waivers.Put(tx, ended)
	})
	_, err = w.api.ApproveWaiver(as("bob"), &controlpb.ApproveWaiverRequest{Id: resp.GetId()})
	refused("ended", err, "has ended")
	state(controlpb.WaiverView_STATE_EXPIRED)
	if _, err := w.api.RemovePerson(root, &controlpb.RemovePersonRequest{Name: "bob"}); err != nil {
		t.Fatal(err)
	}
	if list, err := w.api.ListWaivers(root, &controlpb.ListWaiversRequest{}); err != nil || len(list.GetWaivers()) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}
