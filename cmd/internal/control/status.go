package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/internal/version"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// keysStatus says where the keys stand after a rotation.
func keysStatus(r raftstore.Reader, resp *controlpb.GetStatusResponse, warn func(string, ...any)) {
	c, err := pkistore.GetCluster(r)
	if err != nil {
		return
	}
	resp.KeysetEpoch = pki.KeysetEpoch(c)
	for _, e := range c.GetExposures() {
		if e.GetFormerRoot() {
			warn("manager %s was removed as compromised on %s and had the key of the root that was replaced since: whoever has it can pretend to be a manager to nodes "+
				"with certificates of before. bring those back, or remove them", e.GetName(), time.Unix(e.GetAt(), 0).UTC().Format(time.DateOnly))
			continue
		}
		warn("manager %s was removed as compromised on %s and had the root key: whoever has it can pretend to be a manager to nodes that are away or new. "+
			"replace the root: `redoubt ca rotate --root`", e.GetName(), time.Unix(e.GetAt(), 0).UTC().Format(time.DateOnly))
	}
	for _, u := range c.GetUnjournalled() {
		n, _ := pkistore.Nodes.Get(r, u.GetNodeId())
		warn("a certificate of %s %s was shown from %s on %s that nobody gave out (serial %s): %s", profile.RoleName(u.GetRole()), cmp.Or(n.GetName(), u.GetNodeId()), u.GetSource(),
			time.Unix(u.GetAt(), 0).UTC().Format(time.RFC3339), u.GetSerial(), pki.UnjournalledRemedy(u))
	}
	if e := c.GetExternal(); e.GetFailure() != "" {
		warn("the external CA certifies no worker since %s: %s. workers keep the certificates they have; "+
			"mend it, or have the cluster's own CA sign again: `redoubt ca external rm`", time.Unix(e.GetFailedAt(), 0).UTC().Format(time.RFC3339), e.GetFailure())
	}
	forgotten := pki.Forgotten(c)
	for n := range pkistore.Nodes.All(r) {
		if pki.NeedsReissue(c, n) {
			if forgotten(n) {
				warn("%s %s was away too long: the issuing CA of its certificate was replaced so often since that nobody takes it. "+
					"`redoubt leave --force` there, `redoubt node rm %s`, and join again", profile.RoleName(n.GetRole()), n.GetName(), n.GetId())
			}
			resp.ReissuePending = append(resp.ReissuePending, n.GetName())
		}
	}
	slices.Sort(resp.ReissuePending)
	if n := len(resp.ReissuePending); n > 0 {
		warn("%d nodes have certificates of before the last key rotation (%s): bring back those that are away, or remove them",
			n, strings.Join(resp.ReissuePending[:min(n, maxHosts)], ", "))
	}
}

// levelWarning says which managers are to be upgraded before what the others
// understand can be used.
func levelWarning(r raftstore.Reader, level raftstore.Level, warn func(string, ...any)) {
	var behind []string
	for _, b := range level.Behind {
		n, _ := pkistore.Nodes.Get(r, b.ID)
		switch name := cmp.Or(n.GetName(), b.ID); b.Level {
		case 0:
			behind = append(behind, name+" (does not say what it understands)")
		default:
			behind = append(behind, fmt.Sprintf("%s (understands %d)", name, b.Level))
		}
	}
	if len(behind) > 0 {
		warn("the store is at level %d of %d, and what is newer is refused: upgrade manager %s", level.Cluster, level.Here, strings.Join(behind, ", "))
	}
}

// GetStatus is the cluster at a glance, with what is wrong and the command
// that mends it.
func (s *Server) GetStatus(ctx context.Context, _ *controlpb.GetStatusRequest) (*controlpb.GetStatusResponse, error) {
	resp := &controlpb.GetStatusResponse{ClusterId: s.c.ClusterID, Version: version.String()}
	servers := s.c.Store.Servers()
	var managers []managerFact
	err := s.view(ctx, func(r *raftstore.ReadTx) error {
		warn := func(format string, args ...any) { resp.Warnings = append(resp.Warnings, fmt.Sprintf(format, args...)) }
		keysStatus(r, resp, warn)
		if d := s.c.Store.Stalled(); d > 0 {
			warn("the disk of the leading manager has not ended a write for %v, and nothing is acknowledged meanwhile: see to that disk", d.Round(time.Second))
		}
		s.nodeClockWarnings(r, warn)
		addressWarnings(r, warn)
		levelWarning(r, s.c.Store.Level(), warn)
		for _, name := range roles.Suspended(r) {
			warn("policy %s asks for several people and is suspended since the cluster began another incarnation: `redoubt auth policy set %s` sets it anew, once there are enough, or `redoubt auth policy rm %s`", name, name, name)
		}
		for n := range pkistore.Nodes.All(r) {
			if n.GetDenied() {
				continue
			}
			sched, _ := schedstore.Nodes.Get(r, n.GetId())
			resp.Nodes++
			switch sched.GetState() {
			case schedulerpb.NodeState_NODE_STATE_READY:
				resp.NodesReady++
			case schedulerpb.NodeState_NODE_STATE_NOT_READY:
				warn("node %s is not ready, %s: `redoubt node inspect %s`", n.GetName(), sched.GetMessage(), n.GetId())
			default:
				if n.GetRole() == profilepb.Role_ROLE_MANAGER {
					break // of which more is said below
				}
				warn("node %s is down: start it, or `redoubt node rm %s`", n.GetName(), n.GetId())
			}
			if time.Unix(n.GetLeafNotAfter(), 0).Before(r.Clock()) {
				warn("the certificate of node %s has expired: check its clock and its log", n.GetName())
			}
			if n.GetRole() == profilepb.Role_ROLE_MANAGER {
				m := managerStatus(r, n, sched, servers)
				resp.Managers = append(resp.Managers, m)
				managers = append(managers, managerFact{ManagerStatus: m, zone: sched.GetLabels()[zoneLabel]})
				if m.GetLeader() {
					resp.LeaderId = n.GetId()
				}
			}
		}
		for _, text := range roles.Announcements(r) {
			warn("%s", text)
		}
		if s.c.Roles != nil {
			set, err := s.c.Roles.Set(r)
			if err != nil {
				return err
			}
			resp.LocalRoot = localRootRoles(r, set)
		}
		rec, _ := autolockstore.Slots.Get(r, autolockstore.RecordID)
		resp.SlotEpoch = rec.GetSet().GetEpoch()
		resp.Autolock = autolock.FileSlot(rec.GetSet()) == nil
		if !resp.Autolock {
			warn("autolock is off: whoever gets a manager's disk has the whole cluster: `redoubt autolock on`")
		}
		for _, m := range s.acks(r) {
			if m.GetEpoch() < resp.SlotEpoch {
				warn("manager %s still opens with the unlock key of before the rotation: `redoubt unlock-key slot ls`", m.GetName())
			}
		}
		for tok := range pkistore.Tokens.All(r) {
			if long := longLived(tok); long {
				warn("join token %s does not expire: `redoubt join-token revoke %s` when it is no longer needed", tok.GetId(), tok.GetId())
			}
		}
		for svc := range schedstore.Services.All(r) {
			v := serviceView(r, svc, 0)
			resp.Services++
			resp.TasksRunning += uint32(v.GetRunning())
			resp.TasksWanted += uint32(v.GetWanted())
			if v.GetRunning() < v.GetWanted() {
				held := ""
				if v.GetHeld() > 0 {
					held = fmt.Sprintf(", %d are held back until there is room", v.GetHeld())
				}
				warn("service %s runs %d of %d tasks%s: `redoubt service ps %s`", svc.GetSpec().GetName(), v.GetRunning(), v.GetWanted(), held, svc.GetSpec().GetName())
			}
			if text := jobWarning(r, v); text != "" {
				warn("%s: `redoubt service runs %s`", text, svc.GetSpec().GetName())
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	resp.Warnings = append(s.clockWarnings(managers), resp.Warnings...)
	s.askLocked(ctx, managers)
	resp.Warnings = append(quorumWarnings(managers), resp.Warnings...)
	return resp, nil
}
