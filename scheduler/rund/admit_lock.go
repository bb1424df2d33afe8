package rund

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"google.golang.org/grpc/codes"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/internal/peercred"
	"github.com/redoubt-cluster/redoubt/scheduler/lock"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// The deployment lock (package lock) is asked three times: before anything is made of a
// task, before its program begins, and before a secret of it is opened. Before its
// program begins it is also held against what was delivered by then. What runs already when a node comes to have the lock goes on, and gets nothing more.

// lockTask is the task as what was signed is held against.
func lockTask(d *rundpb.TaskDesired) lock.Task {
	t := lock.Task{Service: d.GetServiceName(), Slot: d.GetSlot(), Spec: d.GetSpec()}
	for _, n := range d.GetLocalNetworks() {
		t.Local = append(t.Local, n.GetId())
	}
	return t
}

// admitLock returns an error unless a task may be begun as d says, by what is signed
// now.
func (w *worker) admitLock(d *rundpb.TaskDesired, signed []byte) error {
	trust := w.s.trust
	if !trust.On() {
		return nil
	}
	sig, err := lock.Read(signed)
	if err == nil {
		err = trust.Admit(time.Now(), lockTask(d), sig)
	}
	st, err := w.signedFor(d, sig, err)
	if err == nil && st != nil {
		err = admitFacts(st, d)
	}
	if err != nil {
		return rejected(err)
	}
	w.has.mu.Lock()
	defer w.has.mu.Unlock()
	w.has.serial = max(w.has.serial, st.GetSerial())
	return nil
}

// admitFacts returns an error unless the container's templates are filled in with what
// was signed, and with what is the node's own or of its place among the tasks. checkFacts
// looks at the rest.
func admitFacts(st *lockpb.Statement, d *rundpb.TaskDesired) error {
	f := d.GetFacts()
	switch {
	case !d.GetSpec().GetContainer().GetTemplated():
		return nil
	case f.GetClusterId() != st.GetClusterId():
		return errors.New("what the container's templates may say is of another cluster")
	case !maps.Equal(f.GetServiceLabels(), st.GetLabels()):
		return errors.New("what the container's templates may say has other labels of the service than were signed")
	}
	return nil
}

// signedFor is what was signed for a task that was let in, unless err says that it was
// not; nil where the lock is off.
func (w *worker) signedFor(d *rundpb.TaskDesired, sig *lockpb.Signed, err error) (*lockpb.Statement, error) {
	if err != nil {
		return nil, err
	}
	return w.s.trust.Check(time.Now(), lockTask(d), sig)
}

// admitDelivered returns an error unless the files that wait for a task are what is
// signed for it now: that may be something newer than when they came.
func (w *worker) admitDelivered(d *rundpb.TaskDesired) error {
	if !w.s.trust.On() || !needsFiles(w.made.GetSpec()) {
		return nil
	}
	sig, err := lock.Read(d.GetSigned())
	st, err := w.signedFor(w.made, sig, err)
	if err == nil && st != nil {
		w.has.mu.Lock()
		contents := w.has.contents
		w.has.mu.Unlock()
		err = lock.CheckDelivered(st, contents)
	}
	return rejected(err)
}

// admitRelays returns an error unless clients are led to ports that were signed for.
func (w *worker) admitRelays(d *rundpb.TaskDesired) error {
	if !w.s.trust.On() {
		return nil
	}
	sig, err := lock.Read(d.GetSigned())
	st, err := w.signedFor(w.made, sig, err)
	if err != nil || st == nil {
		return err
	}
	for _, r := range d.GetRelays().GetRelays() {
		if err := lock.CheckTarget(st, r.GetTarget()); err != nil {
			return err
		}
	}
	return nil
}

// admitFiles returns an error unless what req brings is what the service was signed to
// get, by nothing older than the task had before. Called with has.mu held.
func (w *worker) admitFiles(d *rundpb.TaskDesired, req *rundpb.DeliverRequest) (serial int64, contents []byte, err error) {
	trust := w.s.trust
	if !trust.On() {
		return 0, nil, nil
	}
	sig, err := lock.Read(d.GetSigned())
	if err == nil && !w.has.ready {
		err = trust.Admit(time.Now(), lockTask(d), sig)
	}
	st, err := w.signedFor(d, sig, err)
	if err != nil || st == nil {
		return 0, nil, err
	}
	f := req.GetFacts()
	switch {
	case f.GetServiceName() != d.GetServiceName() || f.GetSlot() != d.GetSlot():
		return 0, nil, errors.New("the delivery is for another task")
	case f.GetClusterId() != st.GetClusterId():
		return 0, nil, errors.New("the delivery is of another cluster")
	}
	if err := ident.CheckHostname(f.GetNodeName()); err != nil { // a template may write it out
		return 0, nil, fmt.Errorf("the node's name: %w", err)
	}
	c := lock.Contents{Labels: f.GetServiceLabels()}
	secrets := len(d.GetSpec().GetContainer().GetSecrets())
	for i, x := range req.GetFiles() {
		switch {
		case x.GetConfig():
			c.Configs = append(c.Configs, lock.NewConfig(x.GetName(), x.GetTemplate(), x.GetData()))
		case i < secrets: // then the credential of its image's registry, which no file shows
			c.Secrets = append(c.Secrets, x.GetName())
		}
	}
	if err := cmp.Or(lock.CheckOlder(st, w.has.serial), lock.CheckFiles(st, c)); err != nil {
		return 0, nil, err
	}
	return st.GetSerial(), c.Digest(), nil
}

// Lock tells what this node trusts, and changes it by the rules of lock.Trust.
// PermissionDenied: only root of the node changes it.
func (s *Server) Lock(ctx context.Context, req *rundpb.LockRequest) (*rundpb.LockResponse, error) {
	if uid, ok := callerUID(ctx); req.GetChange() != nil && (!ok || uid != 0) {
		return nil, status.Error(codes.PermissionDenied, "only root of this node changes what it trusts by the deployment lock")
	}
	var err error
	switch c := req.GetChange().(type) {
	case nil:
	case *rundpb.LockRequest_Pin:
		err = s.trust.Pin(c.Pin)
	case *rundpb.LockRequest_Chain:
		err = s.trust.Take(c.Chain)
	case *rundpb.LockRequest_Forget:
		err = s.trust.Forget()
	default:
		return nil, status.Error(codes.InvalidArgument, "a change of the deployment lock that this version does not know")
	}
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, oneline.Text(err.Error(), maxSaid))
	}
	if req.GetChange() != nil {
		s.log.Warn("the deployment lock of this node was changed", "on", s.trust.On())
		s.refuseExecs()
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
	says := s.trust.Says()
	if says == "" {
		return nil
	}
	return []*taskpb.Feature{{Name: lock.Feature, Present: true, Detail: says}}
}
