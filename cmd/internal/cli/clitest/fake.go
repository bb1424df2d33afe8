// Package clitest is a node for tests of the command line: the Bootstrap and
// Control services on api.sock and keyd's unlock socket beside it, with a
// scheduler that has every task running as soon as it is asked for.
//
// It is a fake of the answers, not of the rules: it refuses only what a test
// needs to see refused. Images called "broken" never run.
package clitest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

// Node is the fake. Its fields may be set before Serve.
type Node struct {
	controlpb.UnimplementedBootstrapServer
	controlpb.UnimplementedControlServer

	// Key opens it when it is locked.
	Key autolock.OperatorKey

	mu       sync.Mutex
	phase    controlpb.NodePhase
	role     profilepb.Role
	cluster  string
	id       string
	tokens   []*controlpb.TokenView
	services []*schedulerpb.Service
	configs  []*secretspb.Config
	slots    *keydpb.SlotSet
	away     bool // a manager is away
	leader   bool
}

// New returns a node in the given state: "empty", "active", "worker",
// "locked", "denied", "leaderless" or "away" (active, another manager away).
func New(state string) (*Node, error) {
	n := &Node{
		Key: autolock.NewOperatorKey(), phase: controlpb.NodePhase_NODE_PHASE_ACTIVE, role: profilepb.Role_ROLE_MANAGER,
		cluster: ident.New(), id: ident.New(), leader: true,
	}
	n.slots = &keydpb.SlotSet{Epoch: 1, Slots: []*keydpb.Slot{n.Key.Slot()}}
	switch state {
	case "active":
	case "empty":
		n.phase, n.role, n.cluster, n.id = controlpb.NodePhase_NODE_PHASE_EMPTY, 0, "", ""
	case "worker":
		n.role = profilepb.Role_ROLE_WORKER
	case "locked":
		n.phase = controlpb.NodePhase_NODE_PHASE_LOCKED
	case "broken":
		n.phase = controlpb.NodePhase_NODE_PHASE_BROKEN
	case "leaderless":
		n.leader = false
	case "away":
		n.away = true
	default:
		return nil, fmt.Errorf("unknown state %q", state)
	}
	return n, nil
}

// Serve answers on dir/api.sock and dir/unlock.sock until stop is called.
func (n *Node) Serve(dir string) (stop func(), err error) {
	api, err := net.Listen("unix", filepath.Join(dir, "api.sock"))
	if err != nil {
		return nil, err
	}
	unlock, err := net.Listen("unix", filepath.Join(dir, "unlock.sock"))
	if err != nil {
		api.Close()
		return nil, err
	}
	s := grpc.NewServer()
	controlpb.RegisterBootstrapServer(s, n)
	controlpb.RegisterControlServer(s, n)
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(api) })
	wg.Go(func() { n.serveUnlock(unlock, &wg) })
	return func() {
		s.Stop()
		unlock.Close()
		wg.Wait()
	}, nil
}

func (n *Node) serveUnlock(l net.Listener, wg *sync.WaitGroup) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer conn.Close()
			for {
				req := new(keydpb.Request)
				if wire.Read(conn, req) != nil || wire.Write(conn, n.keyd(req)) != nil {
					return
				}
			}
		})
	}
}

func (n *Node) keyd(req *keydpb.Request) *keydpb.Response {
	n.mu.Lock()
	defer n.mu.Unlock()
	locked := n.phase == controlpb.NodePhase_NODE_PHASE_LOCKED
	refuse := func(c keydpb.Code) *keydpb.Response {
		return &keydpb.Response{Result: &keydpb.Response_Error{Error: &keydpb.Error{Code: c, Message: "refused"}}}
	}
	switch v := req.Verb.(type) {
	case *keydpb.Request_Status:
		state := keydpb.LockState_LOCK_STATE_UNLOCKED
		if locked {
			state = keydpb.LockState_LOCK_STATE_LOCKED
		}
		if n.role != profilepb.Role_ROLE_MANAGER {
			state = keydpb.LockState_LOCK_STATE_EMPTY
		}
		return &keydpb.Response{Result: &keydpb.Response_Status{Status: &keydpb.StatusResponse{State: state}}}
	case *keydpb.Request_Unlock:
		switch {
		case !locked:
			return refuse(keydpb.Code_CODE_NOT_LOCKED)
		case string(v.Unlock.Seed) != string(n.Key.Seed()):
			return refuse(keydpb.Code_CODE_WRONG_KEY)
		}
		n.phase = controlpb.NodePhase_NODE_PHASE_ACTIVE
		return &keydpb.Response{Result: &keydpb.Response_Unlock{Unlock: &keydpb.UnlockResponse{}}}
	}
	return refuse(keydpb.Code_CODE_INVALID)
}

// manager says whether this node may answer Control now. n.mu is held.
func (n *Node) manager() error {
	switch {
	case n.phase == controlpb.NodePhase_NODE_PHASE_EMPTY:
		return apierr.NoCluster()
	case n.phase == controlpb.NodePhase_NODE_PHASE_LOCKED:
		return apierr.Locked()
	case n.phase == controlpb.NodePhase_NODE_PHASE_BROKEN:
		return apierr.NoLeader()
	case n.role != profilepb.Role_ROLE_MANAGER:
		return apierr.NotManager()
	case !n.leader:
		return apierr.NoLeader()
	}
	return nil
}

// LocalStatus implements Bootstrap.
func (n *Node) LocalStatus(context.Context, *controlpb.LocalStatusRequest) (*controlpb.LocalStatusResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &controlpb.LocalStatusResponse{Phase: n.phase, NodeId: n.id, ClusterId: n.cluster, Role: n.role, Version: "fake", Session: true}, nil
}

// Init implements Bootstrap.
func (n *Node) Init(_ context.Context, r *controlpb.InitRequest) (*controlpb.InitResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cluster != "" {
		return nil, apierr.InCluster(n.cluster)
	}
	if err := autolock.CheckSlot(r.Slot); err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	if r.Advertise == "192.0.2.99:2377" {
		return nil, apierr.Invalid("name one of this machine's addresses", "192.0.2.99 is not this machine's")
	}
	n.phase, n.role, n.cluster, n.id = controlpb.NodePhase_NODE_PHASE_ACTIVE, profilepb.Role_ROLE_MANAGER, ident.New(), ident.New()
	return &controlpb.InitResponse{ClusterId: n.cluster, NodeId: n.id}, nil
}

// Join implements Bootstrap.
func (n *Node) Join(_ context.Context, r *controlpb.JoinRequest) (*controlpb.JoinResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cluster != "" {
		return nil, apierr.InCluster(n.cluster)
	}
	if !slices.Equal(r.Managers, []string{"192.0.2.10:2377"}) {
		return nil, apierr.Unreachable("check the address", "no manager answered at %v", r.Managers)
	}
	n.phase, n.role, n.cluster, n.id = controlpb.NodePhase_NODE_PHASE_ACTIVE, profilepb.Role_ROLE_WORKER, ident.New(), ident.New()
	return &controlpb.JoinResponse{ClusterId: n.cluster, NodeId: n.id, Role: n.role}, nil
}

// Leave implements Bootstrap.
func (n *Node) Leave(_ context.Context, r *controlpb.LeaveRequest) (*controlpb.LeaveResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !r.Force && n.role == profilepb.Role_ROLE_MANAGER {
		return nil, apierr.State("use --force to end the cluster", "this is the last manager")
	}
	n.phase, n.role, n.cluster, n.id = controlpb.NodePhase_NODE_PHASE_EMPTY, 0, "", ""
	return &controlpb.LeaveResponse{}, nil
}

// GetStatus implements Control.
func (n *Node) GetStatus(context.Context, *controlpb.GetStatusRequest) (*controlpb.GetStatusResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &controlpb.GetStatusResponse{ClusterId: n.cluster, Nodes: 1, NodesReady: 1, Autolock: true, SlotEpoch: n.slots.Epoch,
		Managers: []*controlpb.ManagerStatus{{NodeId: n.id, Name: "manager-1", Leader: true, Voter: true, Reachable: true}}}, n.manager()
}

// ListNodes implements Control.
func (n *Node) ListNodes(_ context.Context, r *controlpb.ListNodesRequest) (*controlpb.ListNodesResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range r.Nodes {
		if name != "manager-1" {
			return nil, apierr.NotFound("see `redoubt node ls`", "no node %q", name)
		}
	}
	return &controlpb.ListNodesResponse{Self: n.id, Nodes: []*controlpb.NodeView{n.view()}}, n.manager()
}

func (n *Node) view() *controlpb.NodeView {
	return &controlpb.NodeView{Id: n.id, Name: "manager-1", Role: n.role, Effective: schedulerpb.Availability_AVAILABILITY_ACTIVE,
		Node: &schedulerpb.Node{State: schedulerpb.NodeState_NODE_STATE_READY, Availability: schedulerpb.Availability_AVAILABILITY_AUTO,
			Description: &schedulerpb.NodeDescription{RedoubtVersion: "fake\x1b[2J"}},
		Manager: &controlpb.ManagerStatus{Leader: true, Voter: true, Reachable: true, Address: "192.0.2.10:2377"}}
}

// UpdateNode implements Control.
func (n *Node) UpdateNode(context.Context, *controlpb.UpdateNodeRequest) (*controlpb.UpdateNodeResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &controlpb.UpdateNodeResponse{Node: n.view()}, n.manager()
}

// RemoveNode implements Control.
func (n *Node) RemoveNode(_ context.Context, r *controlpb.RemoveNodeRequest) (*controlpb.RemoveNodeResponse, error) {
	resp := &controlpb.RemoveNodeResponse{Id: r.Node, Manager: strings.HasPrefix(r.Node, "manager")}
	var err error
	switch {
	case r.Node == "manager-1":
		return nil, apierr.State("add another manager first", "manager-1 is the last manager")
	case r.Check:
	case resp.Manager:
		resp.Rotation, err = rotation(r.Slot, r.Compromised)
	case r.Compromised:
		resp.Services = []string{"web"}
	}
	return resp, err
}

// PromoteNode implements Control.
func (n *Node) PromoteNode(_ context.Context, r *controlpb.PromoteNodeRequest) (*controlpb.PromoteNodeResponse, error) {
	if strings.HasPrefix(r.Node, "manager") {
		return nil, apierr.State("", "node %s is a manager already", r.Node)
	}
	return &controlpb.PromoteNodeResponse{Id: r.Node}, nil
}

// DemoteNode implements Control.
func (n *Node) DemoteNode(_ context.Context, r *controlpb.DemoteNodeRequest) (*controlpb.DemoteNodeResponse, error) {
	if r.Node == "manager-1" {
		return nil, apierr.State("add another manager first", "manager-1 is the last manager")
	}
	if r.Check {
		return &controlpb.DemoteNodeResponse{Id: r.Node}, nil
	}
	t, err := rotation(r.Slot, false)
	return &controlpb.DemoteNodeResponse{Id: r.Node, Rotation: t}, err
}

func rotation(slot *keydpb.Slot, exposed bool) (*controlpb.Rotation, error) {
	if err := autolock.CheckSlot(slot); err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	return &controlpb.Rotation{KeysetEpoch: 2, SlotEpoch: 2, TokensVoid: 3, Away: []string{"manager-3"}, RootExposed: exposed}, nil
}

// CreateToken implements Control.
func (n *Node) CreateToken(_ context.Context, r *controlpb.CreateTokenRequest) (*controlpb.CreateTokenResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(r.PublicKey) != 32 || !ident.Valid(r.Id) {
		return nil, apierr.Invalid("", "malformed token")
	}
	rec := &profilepb.TokenRecord{Id: r.Id, ClusterId: n.cluster, Role: r.Role, MaxUses: max(1, r.MaxUses), ExpiresAt: time.Now().Add(10 * time.Minute).Unix()}
	if r.LongLived {
		rec.MaxUses, rec.ExpiresAt = 0, 0
	}
	v := &controlpb.TokenView{Record: rec}
	n.tokens = append(n.tokens, v)
	pin := make([]byte, 32)
	rand.Read(pin)
	return &controlpb.CreateTokenResponse{Token: v, RootSpkiSha256: pin, ClusterId: n.cluster, Managers: []string{"192.0.2.10:2377"}}, n.manager()
}

// ListTokens implements Control.
func (n *Node) ListTokens(context.Context, *controlpb.ListTokensRequest) (*controlpb.ListTokensResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &controlpb.ListTokensResponse{Tokens: n.tokens}, n.manager()
}

// RevokeToken implements Control.
func (n *Node) RevokeToken(_ context.Context, r *controlpb.RevokeTokenRequest) (*controlpb.RevokeTokenResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, t := range n.tokens {
		if t.Record.Id == r.Id {
			t.Revoked = true
			return &controlpb.RevokeTokenResponse{Id: r.Id}, nil
		}
	}
	return nil, apierr.NotFound("see `redoubt join-token ls`", "no token %q", r.Id)
}

// ListSlots implements Control.
func (n *Node) ListSlots(context.Context, *controlpb.ListSlotsRequest) (*controlpb.ListSlotsResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &controlpb.ListSlotsResponse{Slots: n.slots, Managers: n.acks(n.slots.Epoch)}, n.manager()
}

func (n *Node) acks(epoch uint64) []*controlpb.SlotAck {
	a := []*controlpb.SlotAck{{NodeId: n.id, Name: "manager-1", Epoch: epoch, Reachable: true}}
	if n.away {
		a = append(a, &controlpb.SlotAck{NodeId: ident.New(), Name: "manager-2", Epoch: 1})
	}
	return a
}

// RotateSlot implements Control.
func (n *Node) RotateSlot(r *controlpb.RotateSlotRequest, s grpc.ServerStreamingServer[controlpb.RotateSlotResponse]) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.manager(); err != nil {
		return err
	}
	n.slots = &keydpb.SlotSet{Epoch: n.slots.Epoch + 1, Slots: []*keydpb.Slot{r.Slot}}
	return errors.Join(
		s.Send(&controlpb.RotateSlotResponse{Epoch: n.slots.Epoch, Managers: n.acks(n.slots.Epoch - 1)}),
		s.Send(&controlpb.RotateSlotResponse{Epoch: n.slots.Epoch, Managers: n.acks(n.slots.Epoch), Done: true}))
}

// CreateService implements Control.
func (n *Node) CreateService(_ context.Context, r *controlpb.CreateServiceRequest) (*controlpb.CreateServiceResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.manager(); err != nil {
		return nil, err
	}
	if n.find(r.Spec.Name) != nil {
		return nil, apierr.Exists("use another --name", "a service called %q exists", r.Spec.Name)
	}
	s := &schedulerpb.Service{Meta: &raftstorepb.Meta{Version: 1}, Id: ident.New(), Spec: r.Spec, Revision: 1}
	n.services = append(n.services, s)
	return &controlpb.CreateServiceResponse{Id: s.Id, Warnings: []string{"the image was loaded by hand"}}, nil
}

func (n *Node) find(name string) *schedulerpb.Service {
	for _, s := range n.services {
		if s.Id == name || s.Spec.Name == name {
			return s
		}
	}
	return nil
}

// tasks are those of s, running unless its image is broken.
func (n *Node) tasksOf(s *schedulerpb.Service) []*controlpb.TaskView {
	var out []*controlpb.TaskView
	state, msg := schedulerpb.TaskState_TASK_STATE_RUNNING, ""
	if s.Spec.Task.Container.Image == "broken" {
		state, msg = schedulerpb.TaskState_TASK_STATE_PENDING, "no suitable node (1 of 1 lack label disk=ssd)"
	}
	for i := range wanted(s) {
		out = append(out, &controlpb.TaskView{ServiceName: s.Spec.Name, NodeName: "manager-1", Image: s.Spec.Task.Container.Image,
			Task: &schedulerpb.Task{Id: fmt.Sprintf("%s%02d", s.Id[:24], i), ServiceId: s.Id, Slot: uint32(i + 1), Revision: s.Revision, NodeId: n.id,
				Desired: schedulerpb.TaskState_TASK_STATE_RUNNING, Status: &schedulerpb.TaskStatus{State: state, Message: msg, At: time.Now().UnixNano()}}})
	}
	return out
}

func wanted(s *schedulerpb.Service) uint64 {
	if r := s.Spec.GetReplicated(); r != nil {
		return r.Replicas
	}
	return 1
}

func serviceView(s *schedulerpb.Service) *controlpb.ServiceView {
	v := &controlpb.ServiceView{Service: s, Wanted: wanted(s)}
	if s.Spec.Task.Container.Image != "broken" {
		v.Running = v.Wanted
	}
	return v
}

// ListServices implements Control.
func (n *Node) ListServices(_ context.Context, r *controlpb.ListServicesRequest) (*controlpb.ListServicesResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := new(controlpb.ListServicesResponse)
	for _, s := range n.services {
		if len(r.Services) == 0 || slices.Contains(r.Services, s.Spec.Name) || slices.Contains(r.Services, s.Id) {
			out.Services = append(out.Services, serviceView(s))
		}
	}
	if len(out.Services) < len(r.Services) {
		return nil, apierr.NotFound("see `redoubt service ls`", "no service %q", r.Services[0])
	}
	return out, n.manager()
}

// UpdateService implements Control.
func (n *Node) UpdateService(_ context.Context, r *controlpb.UpdateServiceRequest) (*controlpb.UpdateServiceResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.find(r.Service)
	if s == nil {
		return nil, apierr.NotFound("", "no service %q", r.Service)
	}
	if s.Meta.Version != r.Version {
		return nil, apierr.Conflict("service")
	}
	s.Meta.Version++
	s.Revision++
	s.Spec = r.Spec
	return &controlpb.UpdateServiceResponse{Id: s.Id}, nil
}

// RemoveService implements Control.
func (n *Node) RemoveService(_ context.Context, r *controlpb.RemoveServiceRequest) (*controlpb.RemoveServiceResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.find(r.Service)
	if s == nil {
		return nil, apierr.NotFound("see `redoubt service ls`", "no service %q", r.Service)
	}
	n.services = slices.DeleteFunc(n.services, func(o *schedulerpb.Service) bool { return o == s })
	return &controlpb.RemoveServiceResponse{Id: s.Id}, nil
}

// ListTasks implements Control.
func (n *Node) ListTasks(_ context.Context, r *controlpb.ListTasksRequest) (*controlpb.ListTasksResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := new(controlpb.ListTasksResponse)
	for _, s := range n.services {
		if len(r.Services) == 0 || slices.Contains(r.Services, s.Spec.Name) {
			out.Tasks = append(out.Tasks, n.tasksOf(s)...)
		}
	}
	return out, n.manager()
}

// WatchService implements Control.
func (n *Node) WatchService(r *controlpb.WatchServiceRequest, s grpc.ServerStreamingServer[controlpb.WatchServiceResponse]) error {
	n.mu.Lock()
	svc := n.find(r.Service)
	if svc == nil {
		n.mu.Unlock()
		return apierr.NotFound("", "no service %q", r.Service)
	}
	v := &controlpb.WatchServiceResponse{Service: serviceView(svc), Tasks: n.tasksOf(svc)}
	n.mu.Unlock()
	if err := s.Send(v); err != nil {
		return err
	}
	<-s.Context().Done()
	return s.Context().Err()
}

// ServiceLogs implements Control.
func (n *Node) ServiceLogs(r *controlpb.ServiceLogsRequest, s grpc.ServerStreamingServer[controlpb.ServiceLogsResponse]) error {
	if r.Target != "web" {
		return apierr.NotFound("see `redoubt service ls`", "no service or task %q", r.Target)
	}
	return errors.Join(
		s.Send(&controlpb.ServiceLogsResponse{TaskId: "a", TaskName: "web.1", NodeName: "manager-1", Data: []byte("hel")}),
		s.Send(&controlpb.ServiceLogsResponse{TaskId: "b", TaskName: "web.2", NodeName: "manager-1", Data: []byte("other\n")}),
		s.Send(&controlpb.ServiceLogsResponse{TaskId: "a", TaskName: "web.1", NodeName: "manager-1", Data: []byte("lo\nwithout end")}),
		s.Send(&controlpb.ServiceLogsResponse{TaskId: "a", TaskName: "web.1", NodeName: "manager-1", Stderr: true, Data: []byte("oops\n")}))
}

// LoadImage implements Bootstrap.
func (n *Node) LoadImage(s grpc.ClientStreamingServer[controlpb.LoadImageRequest, controlpb.LoadImageResponse]) error {
	for {
		if _, err := s.Recv(); errors.Is(err, io.EOF) {
			return s.SendAndClose(&controlpb.LoadImageResponse{Images: map[string]string{
				"docker.io/library/web:1": "sha256:" + strings.Repeat("0", 64)}})
		} else if err != nil {
			return err
		}
	}
}
