package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/resolve"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// ErrChanged: the service was updated since the caller read it.
var ErrChanged = errors.New("the service was changed since it was read: look at it and try again")

// RefusedError is a change that breaks a rule; its text is for who asked.
type RefusedError struct{ text string }

func (e *RefusedError) Error() string { return e.text }

// IsRefused reports whether err is of a change that breaks a rule.
func IsRefused(err error) bool { return errors.As(err, new(*RefusedError)) }

func refuse(format string, args ...any) error {
	return &RefusedError{fmt.Sprintf(format, args...)}
}

// CreateService validates the spec, fills in defaults and stores a new service
// at revision 1. The image's digest must have been resolved before.
func CreateService(ctx context.Context, s *raftstore.Store, sp *schedulerpb.ServiceSpec) (string, error) {
	a, err := prepare(sp)
	if err != nil {
		return "", err
	}
	return CreateAdmitted(ctx, s, a)
}

// CreateAdmitted is CreateService for a spec that was looked at already.
func CreateAdmitted(ctx context.Context, s *raftstore.Store, a spec.Admitted) (string, error) {
	return CreateSigned(ctx, s, a, Signing{})
}

// CreateSigned is CreateAdmitted for a spec that sg says who signed.
func CreateSigned(ctx context.Context, s *raftstore.Store, a spec.Admitted, sg Signing) (string, error) {
	if err := resolved(a); err != nil {
		return "", err
	}
	if err := roomForNamed(s, a.Spec()); err != nil {
		return "", err
	}
	id := ident.New()
	sp := a.Spec()
	err := meshstore.Retry(ctx, s, func(tx *raftstore.Tx) error {
		sp, vips, err := place(tx, id, a.Spec(), nil)
		if err != nil {
			return err
		}
		if err := sg.check(sp, nil); err != nil {
			return err
		}
		svc := &schedulerpb.Service{Id: id, Spec: sp, Revision: 1, Vips: vips, Signed: sg.Signed}
		if tx.Level() >= meshstore.Level {
			if err := record(tx, nil, svc, sg.By, nil); err != nil {
				return err
			}
		}
		if err := startJob(tx, svc, sg.By); err != nil {
			return err
		}
		if err := Services.Put(tx, svc); err != nil {
			return err
		}
		return putRevision(tx, id, 1, sp, sg.Signed)
	})
	if dup := (*raftstore.DuplicateError)(nil); errors.As(err, &dup) && dup.Index == "name" {
		return "", fmt.Errorf("a service named %q exists already: choose another name: %w", sp.GetName(), err)
	}
	if err != nil {
		return "", err
	}
	return id, nil
}

// UpdateService replaces the spec of the service that was read at version. The
// task template becomes a new revision where it differs; a change of replicas,
// labels or ports of mode ingress does not, but for the first such port and the
// last: they decide what networks its tasks are on. Name and mode are for life. The same
// spec again, or one that says anew how tasks are replaced, has a paused update go on.
func UpdateService(ctx context.Context, s *raftstore.Store, id string, version uint64, sp *schedulerpb.ServiceSpec) error {
	return UpdateSigned(ctx, s, id, version, sp, Signing{})
}

// UpdateSigned is UpdateService for a spec that sg says who signed.
func UpdateSigned(ctx context.Context, s *raftstore.Store, id string, version uint64, sp *schedulerpb.ServiceSpec, sg Signing) error {
	a, err := prepare(sp)
	if err != nil {
		return err
	}
	if err := roomForNamed(s, sp); err != nil {
		return err
	}
	return meshstore.Retry(ctx, s, func(tx *raftstore.Tx) error {
		sp := a.Spec()
		old, ok := Services.Get(tx, id)
		switch {
		case !ok:
			return &resolve.Error{Kind: "service", Ref: id}
		case old.GetMeta().GetVersion() != version:
			return ErrChanged
		case old.GetSpec().GetName() != sp.GetName():
			return refuse("a service cannot be renamed: create %q and remove %q", sp.GetName(), old.GetSpec().GetName())
		case !spec.SameMode(old.GetSpec(), sp):
			return refuse("the mode of a service cannot be changed: remove it and create it again")
		}
		sp, vips, err := place(tx, id, sp, old)
		if err != nil {
			return err
		}
		if err := sg.check(sp, old); err != nil {
			return err
		}
		if proto.Equal(old.GetSpec(), sp) && bytes.Equal(old.GetSigned(), sg.Signed) && !isPaused(old) {
			return nil
		}
		next := proto.CloneOf(old)
		next.Vips, next.VipsUntil = vips, lingering(sp, len(vips) > 0, old, tx.Now())
		return succeed(tx, old, sp, next, succession{signing: sg})
	})
}

// place returns a service's spec with all that it names by id, and its virtual
// addresses.
func place(tx *raftstore.Tx, id string, sp *schedulerpb.ServiceSpec, old *schedulerpb.Service) (*schedulerpb.ServiceSpec, []*taskpb.Attachment, error) {
	if err := checkDependencies(tx, sp); err != nil {
		return nil, nil, err
	}
	sp, vips, err := attach(tx, id, sp, old)
	if err != nil {
		return nil, nil, err
	}
	if sp, err = publish(tx, id, sp, old); err != nil {
		return nil, nil, err
	}
	if err := nameVolumes(tx, id, sp); err != nil {
		return nil, nil, err
	}
	sp, err = grant(tx, sp)
	return sp, vips, err
}

// RemoveService deletes the service. Its name is free at once; the leader stops
// its tasks and removes them when their nodes have.
func RemoveService(ctx context.Context, s *raftstore.Store, id string) error {
	return s.Update(ctx, func(tx *raftstore.Tx) error {
		old, ok := Services.Get(tx, id)
		if !ok {
			return &resolve.Error{Kind: "service", Ref: id}
		}
		if err := unpublish(tx, id, old.GetSpec().GetTask(), nil); err != nil {
			return err
		}
		if err := meshstore.DeleteIngress(tx, id); err != nil {
			return err
		}
		if err := forgetHistory(tx, id); err != nil {
			return err
		}
		if err := forgetRuns(tx, id); err != nil {
			return err
		}
		return Services.Delete(tx, id)
	})
}

// prepare returns the spec as it is stored.
func prepare(sp *schedulerpb.ServiceSpec) (spec.Admitted, error) {
	a, err := spec.Admit(sp)
	if err != nil {
		return a, refuse("%v", err)
	}
	return a, resolved(a)
}

func resolved(a spec.Admitted) error {
	if c := a.Spec().GetTask().GetContainer(); c.GetDigest() == "" {
		return fmt.Errorf("image %q has no digest: resolve it before the service is stored", c.GetImage())
	}
	return nil
}

// resign keeps who signed last for tasks of a revision: when the next one takes its
// place, theirs must not be older than what they were let in by.
func resign(tx *raftstore.Tx, serviceID string, n uint64, signed []byte) error {
	rev, ok := Revisions.Get(tx, RevisionID(serviceID, n))
	if !ok || len(signed) == 0 || bytes.Equal(rev.GetSigned(), signed) {
		return nil
	}
	rev = proto.CloneOf(rev)
	rev.Signed = signed
	return Revisions.Put(tx, rev)
}

func putRevision(tx *raftstore.Tx, serviceID string, n uint64, sp *schedulerpb.ServiceSpec, signed []byte) error {
	return Revisions.Put(tx, &schedulerpb.Revision{
		Id: RevisionID(serviceID, n), ServiceId: serviceID, Spec: sp.GetTask(), Signed: signed,
	})
}
