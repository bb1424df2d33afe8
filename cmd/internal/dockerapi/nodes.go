package dockerapi

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

func (s *Server) nodes(q *request) (any, error) {
	f, err := readFilters(q.Request, "id", "label", "node.label", "membership", "name", "role")
	if err != nil {
		return nil, err
	}
	if err := f.oneOf("membership", "accepted", "pending"); err != nil {
		return nil, err
	}
	if err := f.oneOf("role", "manager", "worker"); err != nil {
		return nil, err
	}
	return q.list(each(func(yield func(any) bool) error {
		r, err := q.api.ListNodes(q.Context(), &controlpb.ListNodesRequest{})
		if err != nil {
			return err
		}
		c, err := clusterOf(q.Context(), q.api)
		if err != nil && !isDenied(err) {
			return err
		}
		for _, v := range r.GetNodes() {
			n := toNode(v)
			if c != nil {
				n.Description.TLSInfo = c.nodeTLS(n.ID)
			}
			if f.begins("id", n.ID) && f.begins("name", n.Description.Hostname) && f.is("role", string(n.Spec.Role)) &&
				f.is("membership", "accepted") && f.has("node.label", n.Spec.Labels) && f.has("label", nil) && !yield(n) {
				return nil
			}
		}
		return nil
	}))
}

// oneNode is the node that a path names.
func oneNode(ctx context.Context, q *request) (*controlpb.NodeView, error) {
	r, err := q.api.ListNodes(ctx, &controlpb.ListNodesRequest{Nodes: []string{q.PathValue("id")}})
	if isNotFound(err) || err == nil && len(r.GetNodes()) != 1 {
		return nil, refuse(http.StatusNotFound, "node %s not found", q.PathValue("id"))
	}
	if err != nil {
		return nil, err
	}
	return r.GetNodes()[0], nil
}

func (s *Server) node(q *request) (any, error) {
	n, err := oneNode(q.Context(), q)
	if err != nil {
		return nil, err
	}
	return toNode(n), nil
}

// nodeUpdate makes the differences between what there is and what is asked for: each is
// a call that is judged by itself.
func (s *Server) nodeUpdate(q *request) (any, error) {
	at, err := versionOf(q.Request)
	if err != nil {
		return nil, err
	}
	var in swarm.NodeSpec
	if err := readBody(q.w, q.Request, &in); err != nil {
		return nil, err
	}
	v, err := oneNode(q.Context(), q)
	if err != nil {
		return nil, err
	}
	if v.GetNode().GetMeta().GetVersion() != at {
		return nil, refuse(http.StatusConflict, "%s: node %s changed since it was read", sequence, v.GetName())
	}
	is := toNode(v).Spec
	if name := take(&in.Name); name != "" && name != is.Name {
		return nil, notHere("a node's name is its machine's: it is not changed here")
	}
	role, availability, labels := take(&in.Role), take(&in.Availability), take(&in.Labels)
	if err := untranslated("NodeSpec", in); err != nil {
		return nil, err
	}
	req := &controlpb.UpdateNodeRequest{Node: v.GetId(), LabelAdd: map[string]string{}}
	for k, val := range labels {
		if was, ok := is.Labels[k]; !ok || was != val {
			req.LabelAdd[k] = val
		}
	}
	for k := range is.Labels {
		if _, ok := labels[k]; !ok {
			req.LabelRm = append(req.LabelRm, k)
		}
	}
	if availability != is.Availability {
		var ok bool
		if req.Availability, ok = availabilities[availability]; !ok {
			return nil, badRequest("invalid availability %q", availability)
		}
	}
	if role != swarm.NodeRoleManager && role != swarm.NodeRoleWorker {
		return nil, badRequest("invalid role %q", role)
	}
	if len(req.LabelAdd)+len(req.LabelRm) > 0 || req.Availability != 0 {
		if _, err := q.api.UpdateNode(q.Context(), req); err != nil {
			return nil, err
		}
	}
	if role != is.Role {
		return nil, changeRole(q, v, role)
	}
	return nil, nil
}

// changeRole makes a worker a manager or the other way round. A manager that leaves has
// seen what opens the others, so a new operator key is due, which is shown once: there is
// no place for it in Docker's answer.
func changeRole(q *request, v *controlpb.NodeView, role swarm.NodeRole) error {
	if role == swarm.NodeRoleManager {
		_, err := q.api.PromoteNode(q.Context(), &controlpb.PromoteNodeRequest{Node: v.GetId()})
		return err
	}
	check, err := q.api.DemoteNode(q.Context(), &controlpb.DemoteNodeRequest{Node: v.GetId(), Check: true})
	if err != nil {
		return err
	}
	_, err = q.api.DemoteNode(q.Context(), &controlpb.DemoteNodeRequest{Node: v.GetId()})
	if err == nil && !check.GetNoSlot() {
		q.w.Header().Set("Warning", `299 - "the operator key is the one of before: replace it by redoubt unlock-key rotate"`)
	}
	return err
}

func (s *Server) nodeRemove(q *request) (any, error) {
	if err := onlyParameters(q.Request, "force"); err != nil {
		return nil, err
	}
	_, err := q.api.RemoveNode(q.Context(), &controlpb.RemoveNodeRequest{Node: q.PathValue("id"), Force: isOn(q.Request, "force")})
	return nil, err
}

var availabilities = map[swarm.NodeAvailability]schedulerpb.Availability{
	swarm.NodeAvailabilityActive: schedulerpb.Availability_AVAILABILITY_ACTIVE,
	swarm.NodeAvailabilityPause:  schedulerpb.Availability_AVAILABILITY_PAUSE,
	swarm.NodeAvailabilityDrain:  schedulerpb.Availability_AVAILABILITY_DRAIN,
}

// toNode is a node in Docker's words. Of availability it says what is in force: auto is
// none of Docker's.
func toNode(v *controlpb.NodeView) swarm.Node {
	n, d := v.GetNode(), v.GetNode().GetDescription()
	out := swarm.Node{
		ID: v.GetId(), Meta: toMeta(n.GetMeta()),
		Spec: swarm.NodeSpec{Annotations: swarm.Annotations{Labels: labels(n.GetLabels())}, Role: swarm.NodeRoleWorker,
			Availability: swarm.NodeAvailability(lower(v.GetEffective().String(), "AVAILABILITY_"))},
		Description: swarm.NodeDescription{
			Hostname: v.GetName(), Platform: swarm.Platform{Architecture: d.GetArch(), OS: d.GetOs()},
			Resources: swarm.Resources{NanoCPUs: d.GetResources().GetNanoCpus(), MemoryBytes: d.GetResources().GetMemoryBytes()},
			Engine:    swarm.EngineDescription{EngineVersion: d.GetRedoubtVersion()},
		},
		Status: swarm.NodeStatus{State: nodeStates[n.GetState()], Message: n.GetMessage(), Addr: n.GetAddress()},
	}
	if out.Meta.CreatedAt.IsZero() && v.GetJoinedAt() != 0 {
		out.Meta.CreatedAt = time.Unix(v.GetJoinedAt(), 0).UTC()
	}
	if v.GetRole() == profilepb.Role_ROLE_MANAGER {
		out.Spec.Role = swarm.NodeRoleManager
	}
	if m := v.GetManager(); m != nil {
		out.ManagerStatus = &swarm.ManagerStatus{Leader: m.GetLeader(), Reachability: swarm.ReachabilityUnreachable, Addr: m.GetAddress()}
		if m.GetReachable() || m.GetLeader() {
			out.ManagerStatus.Reachability = swarm.ReachabilityReachable
		}
		if out.Status.Addr == "" {
			out.Status.Addr = host(m.GetAddress())
		}
	}
	return out
}

var nodeStates = map[schedulerpb.NodeState]swarm.NodeState{
	schedulerpb.NodeState_NODE_STATE_UNKNOWN: swarm.NodeStateUnknown, schedulerpb.NodeState_NODE_STATE_READY: swarm.NodeStateReady,
	schedulerpb.NodeState_NODE_STATE_DOWN: swarm.NodeStateDown,
	// It is heard, and runs nothing new.
	schedulerpb.NodeState_NODE_STATE_NOT_READY: swarm.NodeStateDisconnected,
}

// toMeta is an object's version and times.
func toMeta(m *raftstorepb.Meta) swarm.Meta {
	return swarm.Meta{Version: swarm.Version{Index: m.GetVersion()}, CreatedAt: moment(m.GetCreatedAt()), UpdatedAt: moment(m.GetUpdatedAt())}
}

// moment is a time from Unix nanoseconds; 0 is none.
func moment(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

// lower is the name of an enum's value as Docker writes it.
func lower(name, prefix string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }

// labels are never null: clients write into what they read.
func labels(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
