package events

import (
	"cmp"
	"fmt"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
)

// witness tells of one outside of the cluster that is set, set anew or removed.
func witness(old, now *pkipb.AuditWitness) *controlpb.Event {
	action := "set"
	if now == nil {
		action = "rm"
	}
	e := event("audit-witness", action, "", cmp.Or(now, old).GetId())
	set(e, "url", cmp.Or(now, old).GetUrl())
	return e
}

// witnessed tells that a witness knows another log, that it cosigns nothing, and that it
// does again. What it cosigns, which is each minute, is no event.
func witnessed(old, now *pkipb.AuditWitnessed) *controlpb.Event {
	switch {
	case now == nil:
		return nil
	case now.GetAlarm() != nil && old.GetAlarm() == nil:
		e := event("audit-witness", "alarm", "", now.GetId())
		set(e, "why", now.GetAlarm().GetReason())
		set(e, "known", fmt.Sprint(now.GetAlarm().GetKnown()))
		return e
	case now.GetFailure() != "" && old.GetFailure() == "":
		e := event("audit-witness", "failing", "", now.GetId())
		set(e, "why", now.GetFailure())
		return e
	case now.GetFailure() == "" && old.GetFailure() != "" && old.GetLine() != now.GetLine():
		return event("audit-witness", "recovered", "", now.GetId())
	}
	return nil
}
