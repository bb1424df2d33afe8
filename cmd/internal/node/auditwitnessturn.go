package node

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/tlogwitness"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
)

// witnessTurn shows one checkpoint to one witness.
type witnessTurn struct {
	witness *pkipb.AuditWitness
	last    *pkipb.AuditWitnessed // what it said last; nil: nothing

	// What came of it.
	c       checkpoint.Checkpoint
	note    []byte // that was submitted
	line    string // its cosignature; empty: there is none, and failure says why
	at      time.Time
	failure string
	alarm   *pkipb.AuditWitnessAlarm
	err     error // that is not on record
}

// due is when the witness is to be shown the checkpoint of that note.
func (t *witnessTurn) due(note []byte) time.Time {
	l := t.last
	if l == nil || l.GetFailure() != "" || !bytes.Equal(checkpoint.TextOf(l.GetNote()), checkpoint.TextOf(note)) {
		return time.Time{}
	}
	return time.Unix(l.GetAt(), 0).Add(rewitnessAfter)
}

// submit has the witness cosign, or says why it does not.
func (t *witnessTurn) submit(ctx context.Context, m *managerState, c checkpoint.Checkpoint, note []byte) {
	t.c, t.note = c, note
	err := t.ask(ctx, m)
	if err != nil {
		t.failure = err.Error()
	}
	if t.alarm != nil {
		t.alarm.Reason = t.failure
	}
}

func (t *witnessTurn) ask(ctx context.Context, m *managerState) error {
	roots, err := witnessRoots(t.witness)
	if err != nil {
		return err
	}
	r, err := m.store.Records()
	if err != nil {
		return err
	}
	var old uint64
	if l := t.last; l.GetIncarnation() == t.c.Incarnation && l.GetSize() <= t.c.Size {
		old = l.GetSize()
	}
	for asked := false; ; asked = true {
		a, err := t.show(ctx, r, roots, old)
		if err != nil {
			return err
		}
		switch a.Kind {
		case tlogwitness.Cosigned:
			return t.take(a.Lines)
		case tlogwitness.Unproved:
			return t.forked(old, "it knows another log than this one: that the %d records of the checkpoint go on from the %d that it cosigned does not hold", t.c.Size, old)
		}
		switch {
		case old == t.c.Size && (!a.Sized || a.Size == old):
			return t.forked(old, "it knows another log than this one: it cosigned other records than the first %d", old)
		case !a.Sized, a.Size == old:
			return errors.New("it answers that it cosigned another number of records, and does not say how many")
		case a.Size > t.c.Size:
			return t.ahead(ctx, m, a.Size)
		case asked:
			return fmt.Errorf("it answers that it cosigned %d records, and then that it cosigned %d", old, a.Size)
		}
		old = a.Size
	}
}

// show is one question: the checkpoint, and that it goes on from so many records.
func (t *witnessTurn) show(ctx context.Context, r *auditlog.Reader, roots []*x509.Certificate, old uint64) (tlogwitness.Answer, error) {
	s := tlogwitness.Submission{Old: old, Note: t.note}
	if old > 0 && old < t.c.Size {
		proof, err := r.ProveTree(old, t.c.Size)
		if err != nil {
			return tlogwitness.Answer{}, fmt.Errorf("there is no proof for it: %w", err)
		}
		s.Proof = proof
	}
	return tlogwitness.Submit(ctx, t.witness.GetUrl(), roots, s)
}

// take takes a cosignature that is the witness's, of that checkpoint and of now.
func (t *witnessTurn) take(lines string) error {
	by, err := checkpoint.Cosigned(t.c, lines, t.witness.GetKey())
	if err != nil {
		return errors.New("what it answers is no cosignature of the checkpoint by its key")
	}
	if off := time.Until(by.At); off.Abs() > maxWitnessClock {
		return fmt.Errorf("its cosignature is of %s: its clock is off", by.At.Format(time.RFC3339))
	}
	t.line, t.at = by.Line, by.At
	return nil
}

// ahead is for a witness that knows more records than the checkpoint is of. This leader
// may not have signed as many yet; where it does not even have them, they were taken
// away.
func (t *witnessTurn) ahead(ctx context.Context, m *managerState, known uint64) error {
	if err := m.store.Barrier(ctx); err != nil {
		return err
	}
	r, err := m.store.Records()
	if err != nil {
		return err
	}
	if have := r.Log.Size(); known > have {
		return t.forked(known, "it knows another log than this one: it cosigned %d records, and there are %d", known, have)
	}
	return fmt.Errorf("it cosigned %d records already, more than the newest checkpoint is of: it is asked again with the next one", known)
}

func (t *witnessTurn) forked(known uint64, format string, args ...any) error {
	t.alarm = &pkipb.AuditWitnessAlarm{Size: t.c.Size, Known: known}
	return fmt.Errorf(format, args...)
}

// witnessRoots are in what a witness's TLS may end; none: in the system's.
func witnessRoots(w *pkipb.AuditWitness) (roots []*x509.Certificate, err error) {
	for _, der := range w.GetCa() {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, errors.New("the certificate that is kept of its CA cannot be read")
		}
		roots = append(roots, c)
	}
	return roots, nil
}
