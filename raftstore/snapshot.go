package raftstore

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
)

// snapshotFormat is the plaintext format: a SnapshotHeader, then as many
// SnapshotObjects as it announces, each preceded by its length, then the end.
const snapshotFormat = 1

func sortedTables(tables []Registered) []Registered {
	return slices.SortedFunc(slices.Values(tables), func(a, b Registered) int { return cmp.Compare(a.Name(), b.Name()) })
}

// fsmSnapshot is a state being written while the state machine goes on.
type fsmSnapshot struct {
	tables []Registered
	r      *reader
}

// Persist implements raft.FSMSnapshot. Raft closes or cancels the sink.
func (s *fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	return writeSnapshot(sink, s.tables, s.r)
}

// Release implements raft.FSMSnapshot; the state is the collector's to free.
func (s *fsmSnapshot) Release() {}

func writeSnapshot(w io.Writer, tables []Registered, r *reader) error {
	head := &raftstorepb.SnapshotHeader{Format: snapshotFormat, Index: r.index, Clock: r.clock}
	if r.level > firstLevel { // the first release knows no such field
		head.Level = r.level
	}
	if err := eachObject(r.view, tables, func(Registered, Object) error { head.Objects++; return nil }); err != nil {
		return err
	}
	audit, err := auditObjects(r.view.records())
	if err != nil {
		return err
	}
	head.Objects += uint64(len(audit))
	bw := bufio.NewWriterSize(w, snapshotChunkBytes)
	if _, err := protodelim.MarshalTo(bw, head); err != nil {
		return err
	}
	err = eachObject(r.view, tables, func(t Registered, o Object) error {
		data, err := proto.Marshal(o)
		if err != nil {
			return err
		}
		_, err = protodelim.MarshalTo(bw, &raftstorepb.SnapshotObject{Table: t.Name(), Object: data})
		return err
	})
	if err != nil {
		return err
	}
	for _, o := range audit {
		if _, err := protodelim.MarshalTo(bw, o); err != nil {
			return err
		}
	}
	return bw.Flush()
}

func eachObject(v view, tables []Registered, fn func(Registered, Object) error) error {
	for _, t := range tables {
		rows, err := v.rows(t.Name())
		if err != nil {
			return err
		}
		for o := range each(rows.byID, "", true) {
			if err := fn(t, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// readSnapshot builds a state and its indexes from a snapshot. It is strict:
// every rule that holds for writes holds here too.
func readSnapshot(r io.Reader, tables map[string]Registered, understood uint32) (*state, *raftstorepb.SnapshotHeader, error) {
	br := bufio.NewReaderSize(r, snapshotChunkBytes)
	head := &raftstorepb.SnapshotHeader{}
	if err := readDelimited(br, head); err != nil {
		return nil, nil, fmt.Errorf("header: %w", err)
	}
	if head.Format != snapshotFormat {
		return nil, nil, fmt.Errorf("format %d is not known to this version, which reads %d", head.Format, snapshotFormat)
	}
	if err := newer(head.Level, understood); err != nil {
		return nil, nil, err
	}
	d := newState(tables).draft()
	sums := tally{}
	var audit auditSnapshot
	for n := range head.Objects {
		so := &raftstorepb.SnapshotObject{}
		err := readDelimited(br, so)
		if err == nil {
			err = audit.object(so, head)
		}
		if err == nil && !isAudit(so.Table) {
			err = readObject(so, d, head, tables, sums)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("object %d of %d: %w", n+1, head.Objects, err)
		}
	}
	var err error
	if d.audit, err = audit.restored(); err != nil {
		return nil, nil, err
	}
	if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("there is more than the header announces")
		}
		return nil, nil, err
	}
	if err := sums.write(d); err != nil {
		return nil, nil, err
	}
	return d.commit(), head, nil
}

func readObject(so *raftstorepb.SnapshotObject, d *draftState, head *raftstorepb.SnapshotHeader, tables map[string]Registered, sums tally) error {
	t, ok := tables[so.Table]
	if !ok {
		return fmt.Errorf("table %q is unknown", so.Table)
	}
	o, err := t.decode(so.Object)
	if err != nil {
		return fmt.Errorf("table %s: %w", so.Table, err)
	}
	if v := versionOf(o); v == 0 || v > head.Index {
		return fmt.Errorf("table %s: an object's version is not that of an entry up to %d", so.Table, head.Index)
	}
	old, err := d.get(so.Table, o.GetId())
	if err != nil {
		return err
	}
	if old != nil {
		return &DuplicateError{Table: so.Table, Index: idIndex, Key: o.GetId()}
	}
	sums.count(t, o, 1)
	return insert(d, t, o)
}

func readDelimited(br *bufio.Reader, m proto.Message) error {
	if err := (protodelim.UnmarshalOptions{MaxSize: maxSnapshotObjectBytes}).UnmarshalFrom(br, m); err != nil {
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	return refuseUnknown(m)
}
