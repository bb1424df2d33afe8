package control

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/scheduler/lock"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// A manager holds services against the chain that its own node trusts, so that a
// service which nodes would refuse is refused here already, with the rule. It protects
// nobody: each node judges again, by itself.

// plannedError ends a transaction that was made to know what it would store.
type plannedError struct{ spec *schedulerpb.ServiceSpec }

func (*plannedError) Error() string { return "the service was planned only" }

// signing judges what comes with a service.
func (s *Server) signing(ctx context.Context, signed []byte, plan bool) (schedstore.Signing, error) {
	if plan {
		return schedstore.Signing{Check: func(sp *schedulerpb.ServiceSpec, _ *schedulerpb.Service) error { return &plannedError{sp} }}, nil
	}
	sg := schedstore.Signing{Signed: signed, By: caller(ctx)}
	if believesAnything {
		return sg, nil
	}
	var sig *lockpb.Signed
	if len(signed) > 0 {
		var err error
		if sig, err = lock.Read(signed); err != nil {
			return sg, ofLock(err)
		}
	}
	var raw *lockpb.Chain
	on := false
	if s.c.Lock != nil {
		var err error
		asking, cancel := context.WithTimeout(ctx, shortResolveTimeout)
		raw, on, err = s.c.Lock.Trusted(asking)
		cancel()
		if err != nil { // nodes judge, and a manager whose rund is away is to go on
			s.c.Logger.Warn("services are not held against the deployment lock here: rund does not say what this node trusts", "err", err)
			raw, on = nil, false
		}
	}
	if !on && sig == nil {
		return sg, nil
	}
	sg.Check = func(sp *schedulerpb.ServiceSpec, old *schedulerpb.Service) error {
		return ofLock(admitSigned(time.Now(), raw, sig, sp, old))
	}
	return sg, nil
}

// caller is who calls, for people.
func caller(ctx context.Context) string {
	id, ok := authz.FromContext(ctx)
	if !ok {
		return ""
	}
	return id.String()
}

// ofLock has a refusal of the lock reach people.
func ofLock(err error) error {
	if r := (*lock.Refusal)(nil); errors.As(err, &r) || errors.Is(err, lock.ErrForked) {
		return apierr.State("", "%v", err)
	}
	return err
}

// admitSigned holds a spec, as it would be stored, against what was signed: under the
// chain that this node trusts where there is one (raw), else under the one that came
// along, which must then hang together.
func admitSigned(now time.Time, raw *lockpb.Chain, sig *lockpb.Signed, sp *schedulerpb.ServiceSpec, old *schedulerpb.Service) error {
	if sig == nil {
		return lock.ErrUnsigned
	}
	if sp.GetUpdate().GetFailureAction() == spec.ActionRollback { // nodes begin nothing older than what was signed last
		return apierr.State("use pause, and `redoubt service rollback --sign-with KEY`", "a signed service cannot go back by itself, as a former specification has to be signed anew: its update failure action is rollback")
	}
	c, err := lock.Newer(raw, sig.GetChain())
	if err != nil {
		return err
	}
	st, err := c.Verify(now, sig.GetStatement())
	if err != nil {
		return err
	}
	if err := lock.Describes(st, sp.GetName(), sp.GetLabels(), spec.PerNode(sp), spec.Size(sp), sp.GetTask()); err != nil {
		return err
	}
	return newerThan(old, st)
}

// newerThan refuses what was signed before what is stored.
func newerThan(old *schedulerpb.Service, st *lockpb.Statement) error {
	if len(old.GetSigned()) == 0 {
		return nil
	}
	was, err := lock.Read(old.GetSigned())
	if err != nil {
		return nil // of a version that knew more; nodes judge
	}
	before := &lockpb.Statement{}
	if proto.Unmarshal(was.GetStatement().GetPayload(), before) == nil && before.GetSerial() > st.GetSerial() {
		return lock.ErrOlder
	}
	return nil
}
