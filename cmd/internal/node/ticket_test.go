package node

import (
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/autolockpb"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

func TestJudgeTicket(t *testing.T) {
	const slot, here, there = "slot", "10.0.0.3", "10.0.0.9"
	mine, other := []byte("mine"), []byte("other")
	reports := func(g uint64) *schedulerpb.TicketState {
		return &schedulerpb.TicketState{SlotId: slot, Generation: g}
	}
	var rec *autolockpb.Release
	now := time.Unix(1e9, 0)
	show := func(newest *schedulerpb.TicketState, g uint64, session []byte, from string) (told bool, err error) {
		next, why := judgeTicket(rec, newest, &keydpb.ReleaseResponse{NodeId: "b", SlotId: slot, Generation: g}, session, from)
		if why != nil {
			if next != nil {
				t.Error("refused, and to be released:", next)
			}
			next, err = noteRefusal(rec, "b", why, from, now), why
		}
		if next != nil {
			if next.Id != "b" {
				t.Error(next)
			}
			told = err != nil && next.Refused == from && next.Reason == why.reason
			rec = next
		}
		return told, err
	}
	wants := func(what string, newest *schedulerpb.TicketState, g uint64, session []byte, from string, told bool, why string) {
		t.Helper()
		got, err := show(newest, g, session, from)
		if got != told || (err == nil) != (why == "") || err != nil && !strings.Contains(err.Error(), why) {
			t.Errorf("%s: told %v, %v", what, got, err)
		}
	}
	// The disk is copied with ticket 1; then there are new states, up to 5, and no
	// release at all. The copy is put at the manager's address.
	wants("nothing reported", nil, 1, other, here, true, "not reported")
	wants("reported of a slot that is gone", &schedulerpb.TicketState{SlotId: "former", Generation: 1}, 1, other, here, false, "not reported")
	now = now.Add(tellAgain)
	wants("an hour later", nil, 1, other, here, true, "not reported")
	rec = nil
	wants("an old copy, before any release", reports(5), 1, other, here, true, "old copy")
	wants("once more", reports(5), 1, other, here, false, "old copy")
	wants("one before the newest, from elsewhere", reports(5), 4, other, there, true, "old copy")
	if rec.Generation != 0 || rec.Session != nil {
		t.Error("a refusal spent a ticket:", rec)
	}
	wants("the disk itself", reports(5), 5, mine, here, false, "")
	wants("an answer was lost", reports(5), 5, mine, here, false, "")
	wants("a second session", reports(5), 5, other, there, true, "used already, from "+here)
	wants("lost its power before it reported", reports(5), 6, mine, here, false, "")
	wants("what was released, reported or not", reports(5), 5, mine, here, true, "old copy")
	wants("a copy of an open manager that has had new states since", reports(9), 7, other, here, false, "old copy")
	if rec.Generation != 6 || rec.Address != here || string(rec.Session) != "mine" {
		t.Error(rec)
	}
}
