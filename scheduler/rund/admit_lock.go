package rund

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/internal/peercred"
	"github.com/redoubt-cluster/redoubt/scheduler/lock"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// The deployment lock (package lock) is asked three times: before anything is made of a
// task, before its program begins, and before a secret of it is opened. What runs
// already when a node comes to have the lock goes on, and gets nothing more.

// lockTask is the task as what was signed is held against.
func lockTask(d *rundpb.TaskDesired) lock.Task {
	return lock.Task{Service: d.GetServiceName(), Slot: d.GetSlot(), Spec: d.GetSpec()}
}

// admitLock returns an error unless a task may be begun as d says, by what is signed
// now.
func (s *Server) admitLock(d *rundpb.TaskDesired, signed []byte) error {
	if !s.trust.On() {
		return nil
	}
	sig, err := lock.Read(signed)
	if err == nil {
		err = s.trust.Admit(time.Now(), lockTask(d), sig)
	}
	return rejected(err)
}

// admitFiles returns an error unless what req brings is what the service was signed to
// get. known says that the task was let in before.
func (s *Server) admitFiles(d *rundpb.TaskDesired, req *rundpb.DeliverRequest, known bool) error {
	if !s.trust.On() {
		return nil
	}
	sig, err := lock.Read(d.GetSigned())
	if err != nil {
		return err
	}
	if !known {
		if err := s.trust.Admit(time.Now(), lockTask(d), sig); err != nil {
			return err
		}
	}
	st, err := s.trust.Check(time.Now(), lockTask(d), sig)
	if err != nil || st == nil {
		return err
	}
	if f := req.GetFacts(); f.GetServiceName() != d.GetServiceName() || f.GetSlot() != d.GetSlot() {
		return errors.New("the delivery is for another task")
	}
	var configs [][]byte
	for _, f := range req.GetFiles() {
		if f.GetConfig() {
			configs = append(configs, f.GetData())
		}
	}
	return lock.CheckFiles(st, configs, req.GetFacts().GetServiceLabels())
}

// Lock tells what this node trusts, and changes it by the rules of lock.Trust.
// PermissionDenied: only root forgets.
func (s *Server) Lock(ctx context.Context, req *rundpb.LockRequest) (*rundpb.LockResponse, error) {
	var err error
	switch c := req.GetChange().(type) {
	case nil:
	case *rundpb.LockRequest_Pin:
		err = s.trust.Pin(c.Pin)
	case *rundpb.LockRequest_Chain:
		err = s.trust.Take(c.Chain)
	case *rundpb.LockRequest_Forget:
		if uid, ok := callerUID(ctx); !ok || uid != 0 {
			return nil, status.Error(codes.PermissionDenied, "only root of this node has it forget the deployment lock")
		}
		err = s.trust.Forget()
	default:
		return nil, status.Error(codes.InvalidArgument, "a change of the deployment lock that this version does not know")
	}
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, oneline.Text(err.Error(), maxSaid))
	}
	if req.GetChange() != nil {
		s.log.Warn("the deployment lock of this node was changed", "on", s.trust.On())
	}
	return &rundpb.LockResponse{State: s.trust.State(), On: s.trust.On()}, nil
}

func callerUID(ctx context.Context) (uint32, bool) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return 0, false
	}
	return peercred.UID(p.Addr)
}

// lockFeature says that the node has the lock.
func (s *Server) lockFeature() []*taskpb.Feature {
	if !s.trust.On() {
		return nil
	}
	detail := "no chain was seen yet: nothing runs"
	if raw := s.trust.State().GetChain(); raw != nil {
		if c, err := lock.ReadChain(raw); err == nil {
			detail = c.Summary()
		}
	}
	return []*taskpb.Feature{{Name: "deployment-lock", Present: true, Detail: detail}}
}
