package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

const (
	// rewitnessAfter is when a witness is shown a checkpoint again that it cosigned, so
	// that its word is never old where the log is at rest.
	rewitnessAfter = time.Hour
	// witnessRetry is how long a witness is left alone that cosigned nothing, doubled
	// with each time up to checkpointInterval.
	witnessRetry = 5 * time.Second
	// maxWitnessClock is how far a witness's clock may be from the leader's.
	maxWitnessClock = 10 * time.Minute
)

// rest is when a witness is asked again that cosigned nothing.
type rest struct {
	of    uint64 // version of its record: set anew, it is asked at once
	times int
	until time.Time
}

// again has it rest, the longer the more often; with jitter, as others may have been
// refused with us.
func (r rest) again(of uint64, now time.Time) rest {
	if r.of != of {
		r = rest{of: of}
	}
	d := min(witnessRetry<<min(r.times, 10), checkpointInterval)
	r.times, r.until = r.times+1, now.Add(d/2+rand.N(d/2))
	return r
}

// keepWitnessed is the leader's: each checkpoint is shown to the witnesses outside of
// the cluster. Nothing waits for them.
func (m *managerState) keepWitnessed(ctx context.Context) error {
	resting := map[string]rest{}
	for {
		err := m.followCheckpoints(ctx, resting)
		if !errors.Is(err, raftstore.ErrLagged) {
			return err
		}
	}
}

func (m *managerState) followCheckpoints(ctx context.Context, resting map[string]rest) error {
	w, err := m.store.Watch(nil, pkistore.AuditCheckpoints, pkistore.AuditWitnesses)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		next, err := m.showWitnesses(ctx, resting)
		if err != nil {
			return err
		}
		wait, cancel := context.WithDeadline(ctx, next)
		_, err = w.Next(wait)
		late := wait.Err() != nil
		cancel()
		if ctx.Err() != nil || err != nil && !late {
			return err
		}
	}
}

// showWitnesses shows the newest checkpoint to all witnesses that lack it, at once, and
// says when one of them is to be asked again.
func (m *managerState) showWitnesses(ctx context.Context, resting map[string]rest) (next time.Time, err error) {
	var newest *pkipb.AuditCheckpoint
	var all []witnessTurn
	if err := m.store.View(func(r *raftstore.ReadTx) error {
		newest, _ = pkistore.AuditCheckpoints.Get(r, pkistore.CheckpointID)
		for w := range pkistore.AuditWitnesses.All(r) {
			last, _ := pkistore.AuditWitnessed.Get(r, w.GetId())
			all = append(all, witnessTurn{witness: w, last: last})
		}
		return nil
	}); err != nil {
		return next, err
	}
	now := time.Now()
	next = now.Add(rewitnessAfter)
	if newest == nil {
		return next, nil
	}
	c, err := checkpoint.Parse(checkpoint.TextOf(newest.GetNote()))
	if err != nil { // a former leader's: there is another one in a minute
		m.n.log.Error("what is kept as the newest checkpoint of the audit log is none", "err", err)
		return next, nil
	}
	var wg sync.WaitGroup
	var due []*witnessTurn
	for _, t := range all {
		r := resting[t.witness.GetId()]
		switch at := t.due(newest.GetNote()); {
		case r.of == t.witness.GetMeta().GetVersion() && now.Before(r.until):
			next = earlier(next, r.until)
		case now.Before(at):
			next = earlier(next, at)
		default:
			due = append(due, &t)
			wg.Go(func() {
				t.submit(ctx, m, c, newest.GetNote())
				if t.err = m.noteWitnessed(ctx, &t); t.err != nil && ctx.Err() == nil {
					m.n.log.Warn("what a witness of the audit log said is not on record", "witness", t.witness.GetId(), "err", t.err)
				}
			})
		}
	}
	wg.Wait()
	for _, t := range due {
		id := t.witness.GetId()
		if t.line != "" && t.err == nil {
			delete(resting, id)
			continue
		}
		resting[id] = resting[id].again(t.witness.GetMeta().GetVersion(), time.Now())
		next = earlier(next, resting[id].until)
	}
	return next, nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// noteWitnessed keeps what came of a turn, where that is news. An alarm has a record in
// the audit log; a cosignature has none: the log would never be at rest.
func (m *managerState) noteWitnessed(ctx context.Context, t *witnessTurn) error {
	id := t.witness.GetId()
	now := time.Now().Unix()
	is := proto.CloneOf(t.last)
	if is == nil {
		is = &pkipb.AuditWitnessed{Id: id}
	}
	if t.line != "" {
		is.Note, is.Line, is.At, is.Incarnation, is.Size = t.note, t.line, t.at.Unix(), t.c.Incarnation, t.c.Size
	}
	if is.Failure != t.failure {
		is.FailedAt = now
		if t.failure == "" {
			is.FailedAt = 0
		}
		is.Failure = t.failure
	}
	alarmed := is.Alarm == nil && t.alarm != nil
	if alarmed {
		is.Alarm = t.alarm
		is.Alarm.At = now
	}
	switch {
	case t.last != nil && proto.Equal(is, t.last):
		return nil
	case alarmed:
		m.n.log.Error("a witness of the audit log knows another one than there is: see `redoubt audit witness ls`", "witness", id, "why", t.alarm.GetReason())
		ctx = m.records().Own(ctx, "audit witnesses")
	case t.failure != "" && t.failure != t.last.GetFailure():
		m.n.log.Warn("a witness does not cosign the audit log", "witness", id, "why", t.failure)
	case t.failure == "" && t.last.GetFailure() != "":
		m.n.log.Info("a witness cosigns the audit log again", "witness", id, "records", t.c.Size)
	}
	return m.store.Update(ctx, func(tx *raftstore.Tx) error {
		w, there := pkistore.AuditWitnesses.Get(tx, id)
		last, _ := pkistore.AuditWitnessed.Get(tx, id)
		if !there || !proto.Equal(w, t.witness) || !proto.Equal(last, t.last) {
			return nil // it was set anew meanwhile, or another leader asked it
		}
		return pkistore.AuditWitnessed.Put(tx, is)
	})
}
