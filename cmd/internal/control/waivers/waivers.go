// Package waivers is the one reading of what the leader tells of waivers as a report
// takes them, for the command that makes a report and for the leader that signs one. It
// owns no waiver, and refuses those that nobody has approved: they waive nothing.
package waivers

import (
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/threatmodel/report"
)

// Approved are those that somebody approved.
func Approved(views []*controlpb.WaiverView) (out []report.Waiver) {
	for _, w := range views {
		if w.GetApprovedAt() == 0 {
			continue
		}
		scope := report.Target{Kind: "cluster", Name: "cluster"}
		if w.GetNodeId() != "" {
			scope = report.Target{Kind: "node", Name: w.GetNodeName(), ID: w.GetNodeId()}
		}
		out = append(out, report.Waiver{ID: w.GetId(), Control: w.GetControl(), Scope: scope, Reason: w.GetReason(), Asked: w.GetAskedBy(), Approved: w.GetApprover(),
			Expires: time.Unix(w.GetExpiresAt(), 0).UTC(), Evidence: w.GetEvidence()})
	}
	return out
}
