package control

import (
	"bytes"
	"context"
	"errors"

	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
)

// RecordsOf asks the other managers what they have of the audit log.
type RecordsOf interface {
	// Others are their ids.
	Others() []string
	// Ask has one say its root of the first size records, and, where verify is
	// set, look at all that it has.
	Ask(ctx context.Context, id string, size uint64, verify bool) (*controlpb.ManagerRecords, error)
}

// records is the log with everything that was committed.
func (s *Server) records(ctx context.Context) (*auditlog.Reader, error) {
	if err := s.view(ctx, func(*raftstore.ReadTx) error { return nil }); err != nil {
		return nil, err
	}
	return s.c.Store.Records()
}

// ListRecords implements controlpb.AuditServer.
func (s *Server) ListRecords(ctx context.Context, req *controlpb.ListRecordsRequest) (*controlpb.ListRecordsResponse, error) {
	count := uint64(min(req.GetCount(), maxRecords))
	if count == 0 {
		return nil, apierr.Invalid("", "a listing of the audit log has at least one record")
	}
	r, err := s.records(ctx)
	if err != nil {
		return nil, err
	}
	resp := &controlpb.ListRecordsResponse{Size: r.Log.Size()}
	from := req.GetFrom()
	if req.GetNewest() {
		dropped, err := s.droppedRecords()
		if err != nil {
			return nil, err
		}
		from = max(resp.Size-min(count, resp.Size), dropped)
	} else if err := s.whereDropped(from); err != nil && from < resp.Size {
		return nil, err
	}
	for n, size := from, 0; n < resp.Size && n-from < count && size < maxRecordsBytes; n++ {
		e, err := r.Entry(n)
		if err != nil {
			return nil, unreadable(err)
		}
		resp.Records = append(resp.Records, recordView(n, e))
		size += len(e.Record)
	}
	return resp, nil
}

// unreadable is what is said of a log of which something is missing or another.
func unreadable(err error) error {
	return apierr.State("see `redoubt audit verify`", "%v", err)
}

func recordView(n uint64, e auditlog.Entry) *controlpb.RecordView {
	return &controlpb.RecordView{Number: n, Index: e.Index, Clock: e.Clock, Record: e.Record}
}

// ProveRecord implements controlpb.AuditServer.
func (s *Server) ProveRecord(ctx context.Context, req *controlpb.ProveRecordRequest) (*controlpb.ProveRecordResponse, error) {
	r, err := s.records(ctx)
	if err != nil {
		return nil, err
	}
	size := r.Log.Size()
	if of := req.GetSize(); of > size {
		return nil, apierr.NotFound("", "the audit log has %d records, not %d", size, of)
	} else if of > 0 {
		size = of
	}
	if req.GetNumber() >= size {
		return nil, apierr.NotFound("", "the audit log has no record %d: it has %d", req.GetNumber(), size)
	}
	if err := s.whereDropped(req.GetNumber()); err != nil {
		return nil, err
	}
	var root auditlog.Hash
	var proof tlog.RecordProof
	e, err := r.Entry(req.GetNumber())
	if err == nil {
		proof, err = r.Prove(req.GetNumber(), size)
	}
	if err == nil {
		root, err = r.Root(size)
	}
	if err != nil {
		return nil, unreadable(err)
	}
	resp := &controlpb.ProveRecordResponse{Record: recordView(req.GetNumber(), e), Size: size, Root: root[:]}
	for _, h := range proof {
		resp.Proof = append(resp.Proof, h[:])
	}
	return resp, nil
}

// VerifyRecords implements controlpb.AuditServer.
func (s *Server) VerifyRecords(ctx context.Context, req *controlpb.VerifyRecordsRequest) (*controlpb.VerifyRecordsResponse, error) {
	r, err := s.records(ctx)
	if err != nil {
		return nil, err
	}
	size := r.Log.Size()
	resp := &controlpb.VerifyRecordsResponse{Size: size}
	if err := s.c.Store.View(func(r *raftstore.ReadTx) error {
		resp.Retention = retentionView(r)
		return nil
	}); err != nil {
		return nil, err
	}
	own, err := Records(ctx, s.c.Store, size, true)
	if err != nil {
		return nil, err
	}
	own.Id = s.c.Store.NodeID()
	resp.Managers = append(resp.Managers, own)
	answers := make(chan *controlpb.ManagerRecords)
	others := s.c.Records.Others()
	for _, id := range others {
		go func() {
			m, err := s.c.Records.Ask(ctx, id, size, true)
			if err != nil {
				m = &controlpb.ManagerRecords{Absent: status.Convert(err).Message()}
			}
			m.Id = id
			answers <- m
		}()
	}
	for range others {
		resp.Managers = append(resp.Managers, <-answers)
	}
	s.nameManagers(resp.Managers)
	resp.Root = mostHave(resp.Managers)
	for _, m := range resp.Managers {
		if len(m.GetRoot()) > 0 && !bytes.Equal(m.GetRoot(), resp.Root) {
			m.Forked = true
			if m.FirstForked, err = s.firstForked(ctx, resp, m); err != nil {
				m.Fault = status.Convert(err).Message()
			}
		}
	}
	return resp, s.holdAgainst(ctx, r, req, resp)
}

// mostHave is the root that most managers have; the first one's where as many have
// another.
func mostHave(all []*controlpb.ManagerRecords) (most []byte) {
	have := map[string]int{}
	for _, m := range all {
		if len(m.GetRoot()) > 0 {
			have[string(m.GetRoot())]++
		}
	}
	for _, m := range all {
		if root := m.GetRoot(); len(root) > 0 && have[string(root)] > have[string(most)] {
			most = root
		}
	}
	return most
}

// firstForked looks for the first record that a manager has another one of than
// those with the root that most have: the tree over all before is the same.
func (s *Server) firstForked(ctx context.Context, resp *controlpb.VerifyRecordsResponse, m *controlpb.ManagerRecords) (uint64, error) {
	var good string
	for _, o := range resp.GetManagers() {
		if bytes.Equal(o.GetRoot(), resp.GetRoot()) {
			good = o.GetId()
			break
		}
	}
	return s.firstOther(ctx, good, m.GetId(), resp.GetSize())
}

// firstOther is the first of size records that one manager has another one of than
// another manager; of all of them they have different roots.
func (s *Server) firstOther(ctx context.Context, good, bad string, size uint64) (uint64, error) {
	same, other := uint64(0), size // of so many the roots are the same, of so many they are not
	at := func(n uint64) (bool, error) {
		a, err := s.askRoot(ctx, good, n)
		if err != nil {
			return false, err
		}
		b, err := s.askRoot(ctx, bad, n)
		return bytes.Equal(a, b), err
	}
	dropped, err := s.droppedRecords() // where nobody has a root but at the end of a segment
	if err != nil {
		return 0, err
	}
	if dropped > 0 && dropped < size {
		if ok, err := at(dropped); err != nil {
			return 0, err
		} else if ok {
			same = dropped
		}
	}
	for other-same > 1 {
		half := same + (other-same)/2
		ok, err := at(half)
		if err != nil {
			return 0, err
		}
		if ok {
			same = half
		} else {
			other = half
		}
	}
	return same, nil
}

func (s *Server) askRoot(ctx context.Context, id string, size uint64) ([]byte, error) {
	ask := s.c.Records.Ask
	if id == s.c.Store.NodeID() {
		ask = func(ctx context.Context, _ string, size uint64, verify bool) (*controlpb.ManagerRecords, error) {
			return Records(ctx, s.c.Store, size, verify)
		}
	}
	m, err := ask(ctx, id, size, false)
	switch {
	case err != nil:
		return nil, err
	case len(m.GetRoot()) == 0:
		return nil, apierr.State("", "manager %s has no root of %d records: %s", id, size, m.GetFault())
	}
	return m.GetRoot(), nil
}

func (s *Server) nameManagers(all []*controlpb.ManagerRecords) {
	_ = s.c.Store.View(func(r *raftstore.ReadTx) error { // else the ids must do
		for _, m := range all {
			if n, ok := pkistore.Nodes.Get(r, m.GetId()); ok {
				m.Name = n.GetName()
			}
		}
		return nil
	})
}

// Records is what this manager has of the log: its root of the first size records,
// and, where verify is set, what is wrong with what it has.
func Records(ctx context.Context, store *raftstore.Store, size uint64, verify bool) (*controlpb.ManagerRecords, error) {
	r, err := store.Records()
	if err != nil {
		return nil, err
	}
	m := &controlpb.ManagerRecords{}
	if size <= r.Log.Size() {
		root, err := r.Root(size)
		if err != nil {
			m.Fault = status.Convert(err).Message()
		} else {
			m.Root = root[:]
		}
	}
	if !verify {
		return m, nil
	}
	var dropped uint64
	if err := store.View(func(r *raftstore.ReadTx) error {
		dropped = pkistore.DroppedSegments(r)
		return nil
	}); err != nil {
		return nil, err
	}
	missing, err := store.MissingRecords(dropped)
	if err != nil {
		return nil, err
	}
	m.Missing = uint64(len(missing))
	if err := r.Verify(ctx, nil); err != nil && !errors.As(err, new(*raftstore.MissingError)) {
		if ctx.Err() != nil {
			return nil, err
		}
		m.Fault = status.Convert(err).Message()
	}
	return m, nil
}
