package clitest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
)

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
	if err := n.attach(r.Spec); err != nil {
		return nil, err
	}
	if r.Plan {
		return &controlpb.CreateServiceResponse{Planned: planned(r.Spec)}, nil
	}
	n.nameVolumes(r.Spec)
	s := &schedulerpb.Service{Meta: &raftstorepb.Meta{Version: 1}, Id: ident.New(), Spec: r.Spec, Revision: 1, Signed: r.Signed}
	n.services = append(n.services, s)
	n.startJob(s)
	return &controlpb.CreateServiceResponse{Id: s.Id, Warnings: []string{"the image was loaded by hand"}}, nil
}

// planned is what a manager would store, which has a mind of its own about evil ones.
func planned(sp *schedulerpb.ServiceSpec) *schedulerpb.ServiceSpec {
	sp = spec.Normalize(sp)
	c := sp.GetTask().GetContainer()
	_, c.Digest, _ = strings.Cut(c.GetImage(), "@")
	if sp.GetName() == "evil" {
		c.Command = []string{"/bin/sh"}
	}
	return sp
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
	if spec.IsJob(s.Spec) {
		return n.tasksOfRuns(s)
	}
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

func (n *Node) viewOf(s *schedulerpb.Service) *controlpb.ServiceView {
	if spec.IsJob(s.Spec) {
		return &controlpb.ServiceView{Service: s, Runs: n.runs[s.Id]}
	}
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
			out.Services = append(out.Services, n.viewOf(s))
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
	if err := n.attach(r.Spec); err != nil {
		return nil, err
	}
	if r.Plan {
		return &controlpb.UpdateServiceResponse{Planned: planned(r.Spec)}, nil
	}
	n.change(s, r.Spec, r.Signed)
	return &controlpb.UpdateServiceResponse{Id: s.Id}, nil
}

// change puts a spec in the place of the service's. The update to image failing is
// paused, unless it was before and goes on.
func (n *Node) change(s *schedulerpb.Service, sp *schedulerpb.ServiceSpec, signed []byte) {
	if n.former == nil {
		n.former = map[string][]*schedulerpb.ServiceSpecRecord{}
	}
	st := &schedulerpb.UpdateStatus{State: schedulerpb.UpdateStatus_STATE_COMPLETED, Message: "update completed"}
	if !proto.Equal(s.Spec, sp) {
		n.former[s.Id] = append(n.former[s.Id], &schedulerpb.ServiceSpecRecord{ServiceId: s.Id, Number: max(1, s.SpecNumber), Revision: s.Revision, Spec: s.Spec, By: "person ann"})
		s.SpecNumber = max(1, s.SpecNumber) + 1
		if sp.Task.Container.Image == "failing" {
			st.State, st.Message = schedulerpb.UpdateStatus_STATE_PAUSED, "update paused due to failure or early termination of task abc: exited with 3"
		}
	}
	s.Meta.Version++
	s.Revision++
	s.Spec, s.Signed, s.UpdateStatus = sp, signed, st
	if spec.IsJob(sp) {
		s.UpdateStatus = nil
		n.startJob(s)
	}
}

// RollbackService implements Control.
func (n *Node) RollbackService(_ context.Context, r *controlpb.RollbackServiceRequest) (*controlpb.RollbackServiceResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.find(r.Service)
	if s == nil {
		return nil, apierr.NotFound("", "no service %q", r.Service)
	}
	if s.Meta.Version != r.Version {
		return nil, apierr.Conflict("service")
	}
	if r.Plan {
		return &controlpb.RollbackServiceResponse{Planned: planned(r.Spec)}, nil
	}
	n.change(s, r.Spec, r.Signed)
	s.UpdateStatus.State, s.UpdateStatus.Message = schedulerpb.UpdateStatus_STATE_ROLLBACK_COMPLETED, "rollback completed"
	return &controlpb.RollbackServiceResponse{Id: s.Id}, nil
}

// StreamServiceHistory implements Control.
func (n *Node) StreamServiceHistory(r *controlpb.StreamServiceHistoryRequest, stream grpc.ServerStreamingServer[controlpb.StreamServiceHistoryResponse]) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.find(r.Service)
	if s == nil {
		return apierr.NotFound("see `redoubt service ls`", "no service %q", r.Service)
	}
	former := n.former[s.Id]
	all := []*controlpb.StreamServiceHistoryResponse{{InForce: true, Version: s.Meta.Version,
		Record: &schedulerpb.ServiceSpecRecord{ServiceId: s.Id, Number: max(1, s.SpecNumber), Revision: s.Revision, Spec: s.Spec, By: "local root"}}}
	for i, rec := range slices.Backward(former) {
		all = append(all, &controlpb.StreamServiceHistoryResponse{Record: rec, Previous: i == len(former)-1, Version: s.Meta.Version})
	}
	for _, h := range all {
		if err := stream.Send(h); err != nil {
			return err
		}
	}
	return nil
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
		if len(r.Services) == 0 || slices.Contains(r.Services, s.Spec.Name) || slices.Contains(r.Services, s.Id) {
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
	v := &controlpb.WatchServiceResponse{Service: n.viewOf(svc), Tasks: n.tasksOf(svc)}
	n.mu.Unlock()
	if err := s.Send(v); err != nil {
		return err
	}
	<-s.Context().Done()
	return s.Context().Err()
}

// ServiceLogs implements Control.
func (n *Node) ServiceLogs(r *controlpb.ServiceLogsRequest, s grpc.ServerStreamingServer[controlpb.ServiceLogsResponse]) error {
	if r.Run != 0 {
		return s.Send(&controlpb.ServiceLogsResponse{TaskId: "a", TaskName: fmt.Sprint(r.Target, ".1#", r.Run), NodeName: "manager-1", Data: []byte("of one run\n")})
	}
	if r.Target != "web" {
		return apierr.NotFound("see `redoubt service ls`", "no service or task %q", r.Target)
	}
	return errors.Join(
		s.Send(&controlpb.ServiceLogsResponse{TaskId: "z", TaskName: "web.1", NodeName: "manager-1", Gone: true, Error: "its container is gone"}),
		s.Send(&controlpb.ServiceLogsResponse{TaskId: "a", TaskName: "web.1", NodeName: "manager-1", Data: []byte("hel")}),
		s.Send(&controlpb.ServiceLogsResponse{TaskId: "b", TaskName: "web.2", NodeName: "manager-1", Data: []byte("other\n")}),
		s.Send(&controlpb.ServiceLogsResponse{TaskId: "a", TaskName: "web.1", NodeName: "manager-1", Data: []byte("lo\nwithout end")}),
		s.Send(&controlpb.ServiceLogsResponse{TaskId: "a", TaskName: "web.1", NodeName: "manager-1", Stderr: true, Data: []byte("oops\n")}))
}
