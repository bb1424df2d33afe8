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
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/resolve"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// ListNodes returns the named nodes, or all by name.
func (s *Server) ListNodes(ctx context.Context, req *controlpb.ListNodesRequest) (*controlpb.ListNodesResponse, error) {
	resp := &controlpb.ListNodesResponse{Self: self(ctx)}
	if req.GetMesh() && (len(req.GetNodes()) == 0 || len(req.GetNodes()) > maxMeshNodes) {
		return nil, apierr.Invalid("", "nodes are asked for their tunnels by name, at most %d at a time", maxMeshNodes)
	}
	if err := s.eachNode(ctx, req, collect(&resp.Nodes)); err != nil || !req.GetMesh() {
		return resp, err
	}
	s.addMesh(ctx, resp.Nodes)
	return resp, nil
}

// StreamNodes is ListNodes in pages.
func (s *Server) StreamNodes(req *controlpb.ListNodesRequest, stream controlpb.Control_StreamNodesServer) error {
	p := &pages[*controlpb.NodeView]{send: func(page []*controlpb.NodeView) error {
		return stream.Send(&controlpb.ListNodesResponse{Self: self(stream.Context()), Nodes: page})
	}}
	return p.end(s.eachNode(stream.Context(), req, p.add))
}

func (s *Server) eachNode(ctx context.Context, req *controlpb.ListNodesRequest, yield func(*controlpb.NodeView) error) error {
	servers, clocks := s.c.Store.Servers(), s.clocks()
	locked, err := s.lockedManagers(ctx, servers)
	if err != nil {
		return err
	}
	return s.view(ctx, func(r *raftstore.ReadTx) error {
		nodes, err := pickNodes(r, req.GetNodes())
		if err != nil {
			return err
		}
		for _, n := range nodes {
			v := nodeView(r, n, servers)
			v.Clock = clocks[n.GetId()]
			if m := v.GetManager(); m != nil && locked[n.GetId()] {
				m.Locked, m.Reachable = true, false
			}
			if err := yield(v); err != nil {
				return err
			}
		}
		return nil
	})
}

// lockedManagers are those that say they are locked. They are asked outside of a
// view, as they are given time to answer.
func (s *Server) lockedManagers(ctx context.Context, servers []raftstore.Server) (map[string]bool, error) {
	var managers []managerFact
	if err := s.c.Store.View(func(r *raftstore.ReadTx) error {
		for n := range pkistore.Nodes.By(r, "role", profile.RoleName(profilepb.Role_ROLE_MANAGER)) {
			if !n.GetDenied() {
				sched, _ := schedstore.Nodes.Get(r, n.GetId())
				managers = append(managers, managerFact{ManagerStatus: managerStatus(r, n, sched, servers)})
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	s.askLocked(ctx, managers)
	locked := map[string]bool{}
	for _, m := range managers {
		locked[m.GetNodeId()] = m.GetLocked()
	}
	return locked, nil
}

// pickNodes resolves references in their order; none means all, by name.
func pickNodes(r raftstore.Reader, refs []string) (out []*pkipb.Node, err error) {
	for _, ref := range refs {
		n, err := resolveAmong(r, ref, listed)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	if len(refs) > 0 {
		return out, nil
	}
	for n := range pkistore.Nodes.All(r) {
		if listed(n) {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b *pkipb.Node) int {
		return cmp.Or(cmp.Compare(a.GetName(), b.GetName()), cmp.Compare(a.GetId(), b.GetId()))
	})
	return out, nil
}

// self is the node whose local root or user calls.
func self(ctx context.Context) string {
	id, _ := authz.FromContext(ctx)
	return cmp.Or(id.LocalRootOf, id.UserOf)
}

// resolveNode finds a member by id, by its name where that is unique, or by a
// unique prefix of its id. Removed nodes are found by nothing. A node chose its
// name: one that is called as another's id begins does not get what was meant
// for that one, nor the other way round.
func resolveNode(r raftstore.Reader, ref string) (*pkipb.Node, error) {
	return resolveAmong(r, ref, func(n *pkipb.Node) bool { return !n.GetDenied() })
}

// listed reports whether a node is shown: members, and who was revoked and not
// removed yet.
func listed(n *pkipb.Node) bool { return !n.GetDenied() || n.GetRevoked() }

func resolveAmong(r raftstore.Reader, ref string, among func(*pkipb.Node) bool) (*pkipb.Node, error) {
	if n, ok := pkistore.Nodes.Get(r, ref); ok && among(n) {
		return n, nil
	}
	var found []*pkipb.Node
	for n := range pkistore.Nodes.By(r, "name", cmp.Or(ref, " ")) {
		if among(n) {
			found = append(found, n)
		}
	}
	if len(ref) >= ident.MinPrefix && len(ref) <= ident.Len {
		for n := range pkistore.Nodes.Prefix(r, ref) {
			if among(n) && n.GetName() != ref {
				found = append(found, n)
			}
		}
	}
	if len(found) != 1 {
		e := &resolve.Error{Kind: "node", Ref: ref, Matches: len(found)}
		for _, n := range found[:min(len(found), resolve.MaxFound)] {
			sched, _ := schedstore.Nodes.Get(r, n.GetId())
			e.Found = append(e.Found, fmt.Sprintf("%s (%s)", n.GetId(), strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(sched.GetState().String(), "NODE_STATE_"), "_", " "))))
		}
		return nil, e
	}
	return found[0], nil
}

func nodeView(r *raftstore.ReadTx, n *pkipb.Node, servers []raftstore.Server) *controlpb.NodeView {
	sched, _ := schedstore.Nodes.Get(r, n.GetId())
	v := &controlpb.NodeView{Id: n.GetId(), Name: n.GetName(), Role: n.GetRole(), Node: sched,
		LeafNotAfter: n.GetLeafNotAfter(), JoinedAt: n.GetMeta().GetCreatedAt() / int64(time.Second), TokenId: n.GetTokenId(),
		Effective: schedstore.Effective(sched), TpmEk: n.GetTpmEk()}
	v.Reserved, v.Tasks = reserved(r, n.GetId())
	inMesh, _ := meshstore.Nodes.Get(r, n.GetId())
	v.MeshAddress = inMesh.GetAddress()
	if n.GetDenied() {
		v.RevokedAt = n.GetDeniedAt()
		return v
	}
	if n.GetRole() == profilepb.Role_ROLE_MANAGER {
		v.Manager = managerStatus(r, n, sched, servers)
	}
	return v
}

// reserved sums up what the tasks that are on a node reserve of it.
func reserved(r *raftstore.ReadTx, node string) (*taskpb.Resources, uint32) {
	sum, tasks := &taskpb.Resources{}, uint32(0)
	for revision, n := range schedstore.LiveOn(r, node) {
		tasks += uint32(n)
		rev, _ := schedstore.Revisions.Get(r, revision)
		each := rev.GetSpec().GetReservations()
		sum.NanoCpus += int64(n) * each.GetNanoCpus()
		sum.MemoryBytes += int64(n) * each.GetMemoryBytes()
	}
	return sum, tasks
}

func managerStatus(r raftstore.Reader, n *pkipb.Node, sched *schedulerpb.Node, servers []raftstore.Server) *controlpb.ManagerStatus {
	m := &controlpb.ManagerStatus{NodeId: n.GetId(), Name: n.GetName(), Address: n.GetAddress(),
		Reachable: schedstore.Up(sched)}
	rec, _ := autolockstore.Slots.Get(r, autolockstore.RecordID)
	m.OpensItself = autolock.FileSlot(rec.GetSet()) != nil
	if i := slices.IndexFunc(servers, func(s raftstore.Server) bool { return s.ID == n.GetId() }); i >= 0 {
		m.Leader, m.Voter = servers[i].Leader, servers[i].Voter
	}
	return m
}

// UpdateNode changes availability and labels.
func (s *Server) UpdateNode(ctx context.Context, req *controlpb.UpdateNodeRequest) (*controlpb.UpdateNodeResponse, error) {
	resp := &controlpb.UpdateNodeResponse{}
	deadline := time.Duration(req.GetDrainDeadlineNs())
	if deadline < 0 || deadline > maxDrain {
		return nil, apierr.Invalid("", "the drain deadline is %v: use 0s to %v", deadline, maxDrain)
	}
	var drainBy int64
	if deadline > 0 {
		drainBy = time.Now().Add(deadline).UnixNano()
	}
	servers := s.c.Store.Servers()
	var id string
	err := s.update(ctx, func(tx *raftstore.Tx) error {
		n, err := resolveNode(tx, req.GetNode())
		if err != nil {
			return err
		}
		id = n.GetId()
		return schedstore.UpdateNodeSpec(tx, id, schedstore.NodeUpdate{
			Availability: req.GetAvailability(), LabelAdd: req.GetLabelAdd(), LabelRemove: req.GetLabelRm(), DrainBy: drainBy})
	})
	if err != nil {
		return nil, err
	}
	err = s.c.Store.View(func(r *raftstore.ReadTx) error {
		if n, ok := pkistore.Nodes.Get(r, id); ok {
			resp.Node = nodeView(r, n, servers)
		}
		return nil
	})
	return resp, err
}
