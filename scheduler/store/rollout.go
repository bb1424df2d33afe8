package store

import (
	"context"
	"errors"

	"google.golang.org/protobuf/proto"

	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/resolve"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

// Short names of how far a service is on its way to its revision.
const (
	Updating          = schedulerpb.UpdateStatus_STATE_UPDATING
	Paused            = schedulerpb.UpdateStatus_STATE_PAUSED
	Completed         = schedulerpb.UpdateStatus_STATE_COMPLETED
	RollbackStarted   = schedulerpb.UpdateStatus_STATE_ROLLBACK_STARTED
	RollbackPaused    = schedulerpb.UpdateStatus_STATE_ROLLBACK_PAUSED
	RollbackCompleted = schedulerpb.UpdateStatus_STATE_ROLLBACK_COMPLETED

	Moving          = schedulerpb.RebalanceStatus_STATE_MOVING
	MovingCompleted = schedulerpb.RebalanceStatus_STATE_COMPLETED
	MovingStopped   = schedulerpb.RebalanceStatus_STATE_STOPPED
)

// ManualRollback is the message of a rollback that somebody asked for.
const ManualRollback = "manually requested rollback"

// unproven: the spec in force was never reached, and what an update goes back to is
// still the one before.
func unproven(st *schedulerpb.UpdateStatus) bool {
	return st.GetState() == Updating || st.GetState() == Paused
}

// succession is how a spec takes the place of another.
type succession struct {
	signing Signing
	// back is the former spec that it is; nil: it is a new one. revision is one that may
	// have had its tasks before; 0: none.
	back     *schedulerpb.ServiceSpecRecord
	revision uint64
	// restart: it is the same spec, and has no number of its own: with it nothing would
	// be gone back to.
	restart bool
	// rollback: it is a way back, for the reason that message gives.
	rollback bool
	message  string
}

// succeed stores sp, which has all that a stored spec has, in the place of old's spec.
func succeed(tx *raftstore.Tx, old *schedulerpb.Service, sp *schedulerpb.ServiceSpec, next *schedulerpb.Service, how succession) error {
	signed := how.signing.Signed
	next.Spec, next.Signed = sp, signed
	replaced := !proto.Equal(template(old.GetSpec().GetTask()), template(sp.GetTask()))
	if replaced {
		var err error
		if next.Revision, err = revisionOf(tx, old, sp, how); err != nil {
			return err
		}
	} else if err := resign(tx, old.GetId(), next.Revision, signed); err != nil {
		return err
	}
	if tx.Level() < meshstore.Level { // there are neither numbers nor states yet
		return Services.Put(tx, next)
	}
	job := spec.IsJob(sp)
	switch {
	case job: // nothing is replaced little by little
		if err := changeJob(tx, old, next, replaced && !how.restart || how.rollback, how.signing.By); err != nil {
			return err
		}
	case replaced || how.rollback:
		next.UpdateStatus = begin(tx, old, next.GetRevision(), how)
	case goesOn(old.GetSpec(), sp):
		next.UpdateStatus = resumed(tx, old.GetUpdateStatus())
	}
	if how.back != nil || !how.restart && !proto.Equal(old.GetSpec(), sp) {
		if err := record(tx, old, next, how.signing.By, how.back); err != nil {
			return err
		}
	}
	if replaced && !how.rollback && !job {
		next.UpdateStatus.Number = SpecNumber(next)
	}
	return Services.Put(tx, next)
}

// revisionOf gives a template its revision: that of before, where it is one of before
// that tasks still have, so that these need not be replaced.
func revisionOf(tx *raftstore.Tx, old *schedulerpb.Service, sp *schedulerpb.ServiceSpec, how succession) (uint64, error) {
	if n := how.revision; n > 0 && !spec.IsJob(sp) { // each run is one of its own
		if rev, ok := Revisions.Get(tx, RevisionID(old.GetId(), n)); ok && proto.Equal(template(rev.GetSpec()), template(sp.GetTask())) {
			return n, resign(tx, old.GetId(), n, how.signing.Signed)
		}
	}
	n := max(old.GetRevision(), old.GetUpdateStatus().GetNewestRevision()) + 1
	return n, putRevision(tx, old.GetId(), n, sp, how.signing.Signed)
}

func begin(tx *raftstore.Tx, old *schedulerpb.Service, revision uint64, how succession) *schedulerpb.UpdateStatus {
	now := tx.Now().UnixNano()
	was := old.GetUpdateStatus()
	st := &schedulerpb.UpdateStatus{
		State: Updating, StartedAt: now, Since: now, Message: "update in progress",
		From: SpecNumber(old), NewestRevision: max(revision, old.GetRevision(), was.GetNewestRevision()),
	}
	switch {
	case how.rollback:
		st.State, st.Message, st.From = RollbackStarted, how.message, 0
	case unproven(was) && was.GetFrom() > 0:
		st.From = was.GetFrom() // what is left half way is nothing to go back to
	case how.restart:
		st.From = 0
	}
	return st
}

// goesOn reports whether a spec with the same tasks says anew how they are replaced, or
// nothing new at all: so people have an update that was paused go on.
func goesOn(old, sp *schedulerpb.ServiceSpec) bool {
	return proto.Equal(old, sp) || !proto.Equal(old.GetUpdate(), sp.GetUpdate()) || !proto.Equal(old.GetRollback(), sp.GetRollback())
}

// resumed is st, going on where it was paused.
func resumed(tx *raftstore.Tx, st *schedulerpb.UpdateStatus) *schedulerpb.UpdateStatus {
	next := proto.CloneOf(st)
	switch st.GetState() {
	case Paused:
		next.State, next.Message = Updating, "update resumed"
	case RollbackPaused:
		next.State, next.Message = RollbackStarted, "rollback resumed"
	default:
		return st
	}
	next.Since = tx.Now().UnixNano()
	return next
}

// isPaused reports whether the same spec once more has its update go on.
func isPaused(s *schedulerpb.Service) bool {
	st := s.GetUpdateStatus().GetState()
	return st == Paused || st == RollbackPaused
}

// Rollback is what a service is to go back to.
type Rollback struct {
	// Version of the service as it was read, and the number of the former spec.
	Version, To uint64
	// Spec is that former spec as the caller read it, by which it was judged whether the
	// caller may; nothing else is gone back to.
	Spec *schedulerpb.ServiceSpec
}

// RollBack has a service go back to a former spec.
func RollBack(ctx context.Context, s *raftstore.Store, id string, b Rollback, sg Signing) error {
	return meshstore.Retry(ctx, s, func(tx *raftstore.Tx) error {
		old, ok := Services.Get(tx, id)
		switch {
		case !ok:
			return &resolve.Error{Kind: "service", Ref: id}
		case old.GetMeta().GetVersion() != b.Version:
			return ErrChanged
		case b.To == SpecNumber(old):
			return refuse("specification %d of service %s is in force: nothing to go back to", b.To, old.GetSpec().GetName())
		}
		rec, err := former(tx, old, b.To)
		if err != nil {
			return err
		}
		if !proto.Equal(rec.GetSpec(), b.Spec) {
			return refuse("this is not what specification %d of service %s was: read it anew", b.To, old.GetSpec().GetName())
		}
		return goBack(tx, old, rec, rec.GetSpec(), sg, ManualRollback)
	})
}

// former finds a spec that may be gone back to.
func former(tx *raftstore.Tx, s *schedulerpb.Service, n uint64) (*schedulerpb.ServiceSpecRecord, error) {
	rec, ok := SpecRecords.Get(tx, RecordID(s.GetId(), n))
	switch {
	case n == 0:
		return nil, refuse("service %s has no former specification: there is nothing to go back to", s.GetSpec().GetName())
	case !ok || rec.GetSpec() == nil:
		return nil, refuse("service %s has no former specification %d: see `redoubt service history %[1]s`", s.GetSpec().GetName(), n)
	}
	return rec, nil
}

// RollBackFailed has a service, as it was at version, go back to what its update began
// from; it keeps the replicas that it was scaled to since. An error that is a refusal
// (IsRefusal) says why that cannot be, and changes nothing.
func RollBackFailed(ctx context.Context, s *raftstore.Store, id string, version uint64, message string) error {
	return s.Update(ctx, func(tx *raftstore.Tx) error {
		old, ok := Services.Get(tx, id)
		st := old.GetUpdateStatus()
		if !ok || old.GetMeta().GetVersion() != version || st.GetState() != Updating {
			return ErrChanged
		}
		if len(old.GetSigned()) > 0 {
			return refuse("it is signed, and a former specification has to be signed anew: redoubt service rollback --sign-with KEY %s", old.GetSpec().GetName())
		}
		rec, err := former(tx, old, st.GetFrom())
		if err != nil {
			return err
		}
		if err := sameVolumes(tx, rec); err != nil {
			return err
		}
		sp, back := rec.GetSpec(), rec
		if r := old.GetSpec().GetReplicated(); r != nil && scaledSince(tx, old) && sp.GetReplicated().GetReplicas() != r.GetReplicas() {
			sp = proto.CloneOf(sp)
			sp.GetReplicated().Replicas = r.GetReplicas()
		}
		return goBack(tx, old, back, sp, Signing{By: "the cluster: " + message}, message)
	})
}

// IsRefusal reports whether an error is one of what was asked for, not of the store.
func IsRefusal(err error) bool {
	var own *RefusedError
	var ofMesh *meshstore.RefusedError
	var ofSecrets *secretstore.RefusedError
	var nothing *resolve.Error
	return errors.As(err, &own) || errors.As(err, &ofMesh) || errors.As(err, &ofSecrets) || errors.As(err, &nothing)
}

// scaledSince reports whether the number of replicas is not the one that the update
// began with.
func scaledSince(tx *raftstore.Tx, s *schedulerpb.Service) bool {
	n := s.GetUpdateStatus().GetNumber()
	if n == SpecNumber(s) {
		return false
	}
	rec, ok := SpecRecords.Get(tx, RecordID(s.GetId(), n))
	return !ok || rec.GetSpec().GetReplicated().GetReplicas() != s.GetSpec().GetReplicated().GetReplicas()
}

// goBack makes sp the spec of a service again, of which rec is the record; where they
// are not the same sp is a new one that has the revision of rec.
func goBack(tx *raftstore.Tx, old *schedulerpb.Service, rec *schedulerpb.ServiceSpecRecord, sp *schedulerpb.ServiceSpec, sg Signing, message string) error {
	a, err := prepare(sp)
	if err != nil {
		return err
	}
	sp, vips, err := place(tx, old.GetId(), a.Spec(), old)
	if err != nil {
		return err
	}
	if err := sg.check(sp, old); err != nil {
		return err
	}
	next := proto.CloneOf(old)
	next.Vips, next.VipsUntil = vips, lingering(sp, len(vips) > 0, old, tx.Now())
	how := succession{signing: sg, back: rec, revision: rec.GetRevision(), rollback: true, message: message}
	if !proto.Equal(sp, rec.GetSpec()) {
		how.back = nil
	}
	return succeed(tx, old, sp, next, how)
}

// SetUpdateStatus records how far services are, each as it was at a version. It returns
// the ids of those that are at another.
func SetUpdateStatus(ctx context.Context, s *raftstore.Store, all []StatusChange) (stale []string, err error) {
	err = s.Update(ctx, func(tx *raftstore.Tx) error {
		stale = nil
		for _, c := range all {
			old, ok := Services.Get(tx, c.ServiceID)
			if !ok || old.GetMeta().GetVersion() != c.Version {
				stale = append(stale, c.ServiceID)
				continue
			}
			next := proto.CloneOf(old)
			if c.Status != nil {
				next.UpdateStatus = c.Status
			}
			if c.Rebalance != nil {
				next.RebalanceStatus = c.Rebalance
			}
			if err := Services.Put(tx, next); err != nil {
				return err
			}
		}
		return nil
	})
	return stale, err
}

// StatusChange is one service's; what is nil stays.
type StatusChange struct {
	ServiceID string
	Version   uint64
	Status    *schedulerpb.UpdateStatus
	Rebalance *schedulerpb.RebalanceStatus
}
