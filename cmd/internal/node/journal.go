package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/pki/audit"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

const (
	// journalInterval is how often a manager looks what its keyd wrote down.
	journalInterval = 5 * time.Second
	// maxJournalLines bounds what the leader takes at once.
	maxJournalLines = 512
	// refusedTimeout bounds the wait for keyd to write refusals down.
	refusedTimeout = 5 * time.Second
	// waitingLines is how many lines that are not urgent wait for one that is.
	waitingLines = 128
)

var errElsewhere = errors.New("the audit log is at another line of the journal than the caller")

// carryJournal has recorded what this manager's keyd wrote down, also while nobody
// led: each line once, as the audit log knows how far it came.
func (m *managerState) carryJournal(ctx context.Context) error {
	told := ""
	for {
		err := m.carryLines(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil || errors.Is(err, errElsewhere):
			told = ""
		case err.Error() != told: // without a leader that is so for as long as there is none
			told = err.Error()
			m.n.log.Warn("what keyd wrote down is not in the audit log yet", "err", err)
		}
		if sleep(ctx, journalInterval) != nil {
			return ctx.Err()
		}
	}
}

// carryLines takes all that is there, as far as it is urgent.
func (m *managerState) carryLines(ctx context.Context) error {
	for {
		if m.store.Level().Cluster < journalLevel {
			return nil // the leader may know of none
		}
		at, err := m.journalled(m.store.NodeID())
		if err != nil {
			return err
		}
		read, err := m.n.keyd.ReadJournal(ctx, &keydpb.ReadJournalRequest{Seq: at.GetSeq(), Hash: at.GetHash(), At: at.GetAt()})
		if err != nil || !urgent(read) {
			return err
		}
		if err := m.sendJournal(ctx, at, read); err != nil || !m.store.IsLeader() {
			return err // a follower hears how far it came as all else
		}
	}
}

// journalLevel is the store level since which the state says how far journals came.
var journalLevel = pkistore.KeydJournals.Since()

// urgent reports whether what keyd wrote down is recorded now.
func urgent(read *keydpb.ReadJournalResponse) bool {
	if read.GetLost() || len(read.GetLines()) >= waitingLines {
		return true
	}
	for _, l := range read.GetLines() {
		if !audit.Routine(l.GetEvent(), l.GetOutcome()) {
			return true
		}
	}
	return false
}

// journalled is how far a manager's journal is in the audit log.
func (m *managerState) journalled(id string) (at *pkipb.KeydJournal, err error) {
	err = m.store.View(func(r *raftstore.ReadTx) error {
		at, _ = pkistore.KeydJournals.Get(r, id)
		return nil
	})
	return at, err
}

func (m *managerState) sendJournal(ctx context.Context, at *pkipb.KeydJournal, read *keydpb.ReadJournalResponse) error {
	if m.store.IsLeader() {
		return m.recordJournal(ctx, m.store.NodeID(), at.GetSeq(), at.GetHash(), read)
	}
	raw, err := proto.Marshal(read)
	if err != nil {
		return err
	}
	leader, _ := m.store.Leader()
	if leader == "" {
		return errors.New("no manager leads")
	}
	ctx, cancel := context.WithTimeout(ctx, recordsPatience)
	defer cancel()
	err = m.askWitness(ctx, leader, func(c pkipb.WitnessClient) error {
		_, err := c.Journal(ctx, &pkipb.JournalRequest{Read: raw, Seq: at.GetSeq(), Hash: at.GetHash()})
		return err
	})
	if status.Code(err) == codes.Aborted {
		return errElsewhere
	}
	return messageOf(err)
}

// Journal implements pkipb.WitnessServer.
func (s witnessServer) Journal(ctx context.Context, req *pkipb.JournalRequest) (*pkipb.JournalResponse, error) {
	id, ok := authz.FromContext(ctx)
	switch {
	case !ok || id.NodeID == "":
		return nil, status.Error(codes.PermissionDenied, "the caller is not known")
	case !s.m.store.IsLeader():
		return nil, status.Error(codes.FailedPrecondition, "this manager does not lead")
	}
	read := &keydpb.ReadJournalResponse{}
	if err := proto.Unmarshal(req.GetRead(), read); err != nil || len(read.GetLines()) > maxJournalLines {
		return nil, status.Error(codes.InvalidArgument, "that is no part of a journal")
	}
	err := s.m.recordJournal(ctx, id.NodeID, req.GetSeq(), req.GetHash(), read)
	if errors.Is(err, errElsewhere) {
		return nil, status.Error(codes.Aborted, err.Error())
	}
	return &pkipb.JournalResponse{}, err
}

// recordJournal is the leader's: it records what the keyd of manager id answered
// that was asked what it wrote down behind a line. Each record moves on how far the
// journal is in the log, in the same transaction, so that none is made twice.
func (m *managerState) recordJournal(ctx context.Context, id string, seq uint64, hash []byte, read *keydpb.ReadJournalResponse) error {
	at := &pkipb.KeydJournal{Seq: seq, Hash: hash}
	if read.GetLost() {
		next := &pkipb.KeydJournal{Seq: read.GetSeq(), Hash: read.GetHash()}
		if lines := read.GetLines(); len(lines) > 0 {
			next.Seq, next.Hash = lines[0].GetSeq()-1, lines[0].GetPrev()
		}
		if err := m.moveJournal(ctx, id, at, next, audit.LostLines(id, seq)); err != nil {
			return err
		}
		at = next
	}
	for _, g := range audit.OfJournal(id, linesOf(read)) {
		if at.GetSeq() > 0 && (g.First.Seq != at.GetSeq()+1 || !bytes.Equal(g.First.Prev, at.GetHash())) {
			return status.Errorf(codes.InvalidArgument, "line %d does not follow line %d", g.First.Seq, at.GetSeq())
		}
		next := &pkipb.KeydJournal{Seq: g.Last.Seq, Hash: g.Last.Hash, At: g.Last.At}
		if err := m.moveJournal(ctx, id, at, next, g.Record); err != nil {
			return err
		}
		at = next
	}
	return nil
}

func linesOf(read *keydpb.ReadJournalResponse) (out []audit.Line) {
	for _, l := range read.GetLines() {
		out = append(out, audit.Line{Seq: l.GetSeq(), At: l.GetAt(), Event: l.GetEvent(), Outcome: l.GetOutcome(), Node: l.GetNode(), Role: l.GetRole(),
			Token: l.GetToken(), Detail: l.GetDetail(), Keys: l.GetKeys(), Hash: l.GetHash(), Prev: l.GetPrev()})
	}
	return out
}

// moveJournal commits a record and that the journal is in the log up to there.
func (m *managerState) moveJournal(ctx context.Context, id string, from, to *pkipb.KeydJournal, r *auditpb.Record) error {
	raw, err := proto.Marshal(r)
	if err != nil {
		return err
	}
	return m.store.Update(ctx, func(tx *raftstore.Tx) error {
		have, _ := pkistore.KeydJournals.Get(tx, id)
		if have.GetSeq() != from.GetSeq() || !bytes.Equal(have.GetHash(), from.GetHash()) {
			return errElsewhere
		}
		if _, there := pkistore.Nodes.Get(tx, id); !there {
			return fmt.Errorf("%s is no node", id)
		}
		next := &pkipb.KeydJournal{Meta: have.GetMeta(), Id: id, Seq: to.GetSeq(), Hash: to.GetHash(), At: max(to.GetAt(), have.GetAt())}
		if err := pkistore.KeydJournals.Put(tx, next); err != nil {
			return err
		}
		return tx.Record(raw)
	})
}

// noteRefused has keyd write down what nobody who leads would record.
func (m *managerState) noteRefused(ctx context.Context, records []*auditpb.Record) error {
	var calls []*keydpb.RefusedCall
	for _, r := range records {
		c := r.GetCaller()
		calls = append(calls, &keydpb.RefusedCall{Method: r.GetMethod(), Caller: c.GetName(), Address: c.GetAddress(), Reason: r.GetReason(), Times: r.GetTimes()})
	}
	return m.n.keyd.NoteRefused(ctx, calls)
}
