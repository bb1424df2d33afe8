package doctor

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// waiverSoon is how long before its end a waiver is told of.
const waiverSoon = 7 * 24 * time.Hour

const (
	here = "this node"
	all  = "cluster"
	you  = "you"
)

// local judges what this node says of itself.
func (d *Diagnosis) local(f *Facts) {
	if f.Reach != nil {
		d.unreachable(f.Reach)
		return
	}
	s := f.Local
	if s == nil {
		return
	}
	switch s.GetPhase() {
	case controlpb.NodePhase_NODE_PHASE_EMPTY:
		d.found(Critical, here, "it is in no cluster: `redoubt init` begins one, `redoubt join` joins one")
	case controlpb.NodePhase_NODE_PHASE_LOCKED:
		d.found(Critical, here, "it is locked, and serves nothing until `redoubt unlock`")
	case controlpb.NodePhase_NODE_PHASE_NO_QUORUM:
		d.found(Critical, here, "it finds no leader: too few managers are up and unlocked. start the others and `redoubt unlock` them; "+
			"where most are lost for ever, `redoubt recover` says what remains to be done")
	case controlpb.NodePhase_NODE_PHASE_BROKEN:
		d.found(Critical, here, "it cannot start: "+s.GetMessage()+". restore the file, or `redoubt leave --force` and join again", "journalctl -u redoubtd -n 50")
	case controlpb.NodePhase_NODE_PHASE_REMOVED:
		d.found(Critical, here, "it was removed from its cluster: `redoubt leave --force`, then join with a new token", "redoubt leave --force")
	case controlpb.NodePhase_NODE_PHASE_UNSPECIFIED:
		d.found(Warning, here, "it is starting: "+s.GetMessage(), "journalctl -u redoubtd -n 50")
	}
	if s.GetApproval() != "" {
		d.found(Note, here, "it joins and waits for somebody on a manager: `redoubt node approve "+s.GetApproval()+"`")
	}
	member := s.GetPhase() == controlpb.NodePhase_NODE_PHASE_ACTIVE
	if member && !s.GetSession() {
		d.found(Critical, here, "no manager answers its agent: its tasks go on, and nothing new reaches it. see the network between it and the managers", "journalctl -u redoubtd -n 50")
	}
	if end := time.Unix(s.GetLeafNotAfter(), 0); s.GetLeafNotAfter() != 0 && !end.After(f.Now) {
		d.found(Critical, here, "its certificate ended "+end.UTC().Format(time.RFC3339)+", or its clock is wrong (`timedatectl`): it renews by itself with the first manager that answers, "+
			"up to 30 days after; later `redoubt leave --force`, and join again")
	}
	for _, x := range s.GetFeatures() {
		if x.GetRequired() && !x.GetPresent() {
			d.found(Critical, here, fmt.Sprintf("it lacks %s: %s", x.GetName(), x.GetDetail()))
		}
	}
	for _, text := range s.GetMesh().GetDegraded() {
		d.found(Warning, here, "its part of the mesh: "+text)
	}
	if member && s.GetRole() == profilepb.Role_ROLE_WORKER {
		d.found(Note, here, "it is a worker, which knows nothing of the cluster: `redoubt doctor` on a manager looks at that")
	}
}

func (d *Diagnosis) unreachable(err error) {
	var e *apierr.Error
	var refused *apiclient.RefusedConfigError
	switch {
	case errors.As(err, &refused):
		d.found(Critical, here, err.Error()+". correct the file, then `systemctl restart redoubtd`")
	case errors.As(err, &e) && e.Reason == apierr.ReasonDenied:
		d.found(Critical, you, err.Error())
	default:
		d.found(Critical, here, err.Error(), "systemctl status redoubt.target", "journalctl -u redoubtd -n 50")
	}
}

// cluster ranks what the leader warns of.
func (d *Diagnosis) cluster(f *Facts) {
	for _, text := range f.Status.GetWarnings() {
		r, name := ruleOf(text)
		if r.said && len(f.Services) > 0 {
			continue
		}
		about := all
		if r.kind != "" {
			about = r.kind + " " + name
		}
		d.found(r.rank, about, text)
	}
}

// nodes judges what the leader's warnings leave out.
func (d *Diagnosis) nodes(f *Facts) {
	for _, n := range f.Nodes {
		about := "node " + n.GetName()
		if n.GetRevokedAt() != 0 {
			d.found(Warning, about, "it was revoked and is still a member: `redoubt node rm "+n.GetName()+"`", "redoubt node rm "+n.GetName())
		}
		if n.GetEffective() == schedulerpb.Availability_AVAILABILITY_DRAIN && n.GetTasks() > 0 {
			d.found(Note, about, fmt.Sprintf("it is drained, and %d tasks are still there: `redoubt node inspect %s`", n.GetTasks(), n.GetName()))
		}
		d.disk(about, n.GetNode().GetDescription().GetStorage())
		for _, x := range n.GetNode().GetDescription().GetFeatures() {
			if x.GetRequired() && !x.GetPresent() {
				d.found(Critical, about, fmt.Sprintf("it lacks %s: %s", x.GetName(), x.GetDetail()))
			}
		}
	}
}

// disk judges what a node says of the file system that its containers are on.
func (d *Diagnosis) disk(about string, s *taskpb.Storage) {
	free := s.GetDiskFree()
	full := fmt.Sprintf("%s of %s are free where its images and containers are", units.BytesSize(float64(free)), units.BytesSize(float64(s.GetDiskBytes())))
	if s.GetMessage() != "" {
		full += ": " + s.GetMessage()
	}
	switch {
	case s.GetDiskBytes() == 0: // it has not said yet
	case free < s.GetDiskBytes()/50:
		d.found(Critical, about, full+". make room: what nothing uses is removed by itself")
	case free < s.GetDiskBytes()/10, s.GetMessage() != "":
		d.found(Warning, about, full)
	}
}

// services says of each that is not as it should be why, by the scheduler's own word.
func (d *Diagnosis) services(f *Facts) {
	var others []string
	for _, v := range f.Services {
		name, about := v.GetService().GetSpec().GetName(), "service "+v.GetService().GetSpec().GetName()
		switch st := v.GetService().GetUpdateStatus(); st.GetState() {
		case schedulerpb.UpdateStatus_STATE_PAUSED:
			d.found(Warning, about, "its update is paused: "+st.GetMessage(), "redoubt service rollback "+name, "redoubt service update "+name)
		case schedulerpb.UpdateStatus_STATE_ROLLBACK_PAUSED:
			d.found(Warning, about, "its rollback is paused: "+st.GetMessage(), "redoubt service ps "+name)
		}
		if run := spec.NewestRun(v.GetRuns()); run.GetState() == schedulerpb.ServiceRun_STATE_FAILED {
			d.found(Warning, about, fmt.Sprintf("its run %d failed: %s", run.GetNumber(), run.GetMessage()), "redoubt service runs "+name, "redoubt service run "+name)
		}
		missing := lacks(v)
		if missing == 0 {
			continue
		}
		x := f.Explained[v.GetService().GetId()]
		if x == nil {
			others = append(others, name)
			continue
		}
		rank := Warning
		if v.GetRunning() == 0 {
			rank = Critical
		}
		text := fmt.Sprintf("%d of %d tasks run", v.GetRunning(), v.GetWanted())
		if s := x.GetSummary(); len(s) > 0 {
			text += ": " + strings.Join(s, "; ")
		}
		d.found(rank, about, text, append(slices.Clone(x.GetRemedies()), "redoubt service explain "+name)...)
	}
	if len(others) > 0 {
		d.found(Warning, all, fmt.Sprintf("%d more services run fewer tasks than they should: %s", len(others), some(others)), "redoubt service ls")
	}
}

// waits are what people are waited for.
func (d *Diagnosis) waits(f *Facts) {
	for _, p := range f.Pending {
		d.found(Note, all, fmt.Sprintf("%s at %s waits to be let in: compare its fingerprint, then `redoubt node approve %s`", p.GetName(), p.GetSource(), p.GetFingerprint()))
	}
	for _, a := range f.Approvals {
		if a.GetState() == controlpb.ApprovalView_STATE_WAITING {
			d.found(Note, all, fmt.Sprintf("what %s asked for waits for approval (%s): `redoubt approval show %s`", a.GetRequester(), a.GetProgress(), a.GetId()))
		}
	}
	for _, w := range f.Waivers {
		switch left := time.Unix(w.GetExpiresAt(), 0).Sub(f.Now); {
		case w.GetState() == controlpb.WaiverView_STATE_EXPIRED:
			d.found(Warning, all, fmt.Sprintf("the waiver of %s has ended: `redoubt compliance show %s` says what to mend, `redoubt compliance waiver rm %s` takes it out", w.GetControl(), w.GetControl(), w.GetId()))
		case w.GetState() == controlpb.WaiverView_STATE_IN_FORCE && left < waiverSoon:
			d.found(Note, all, fmt.Sprintf("the waiver of %s ends in %v: `redoubt compliance show %s`", w.GetControl(), left.Round(time.Hour), w.GetControl()))
		}
	}
}
