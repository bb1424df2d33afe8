package raftstore

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
)

// In a snapshot the audit log stands behind the tables. No table can have these
// names, and a version that knows no records refuses the store's level before it
// comes to them.
const (
	auditLogObject   = "audit/log"
	auditEntryObject = "audit/entry"
)

func isAudit(table string) bool { return table == auditLogObject || table == auditEntryObject }

// auditObjects are the log's part of a snapshot: none where it is empty.
func auditObjects(l auditlog.Log) (out []*raftstorepb.SnapshotObject, err error) {
	if l.Size() == 0 {
		return nil, nil
	}
	add := func(table string, m proto.Message) {
		data, merr := proto.Marshal(m)
		err = errors.Join(err, merr)
		out = append(out, &raftstorepb.SnapshotObject{Table: table, Object: data})
	}
	reader := auditlog.Reader{Log: l}
	root, err := reader.Root(l.Size())
	if err != nil {
		return nil, err
	}
	head := &raftstorepb.AuditLog{Root: root[:]}
	for _, r := range l.Roots() {
		head.Roots = append(head.Roots, r[:]...)
	}
	entries := l.Open()
	for _, s := range l.Kept() {
		head.Entries += uint64(len(s.Entries))
	}
	head.Entries += uint64(len(entries))
	add(auditLogObject, head)
	entry := func(e auditlog.Entry) {
		add(auditEntryObject, &raftstorepb.AuditEntry{Index: e.Index, Clock: e.Clock, Record: e.Record})
	}
	for _, s := range l.Kept() {
		for _, e := range s.Entries {
			entry(e)
		}
	}
	for _, e := range entries {
		entry(e)
	}
	return out, err
}

// auditSnapshot gathers the log's part of a snapshot.
type auditSnapshot struct {
	head    *raftstorepb.AuditLog
	entries []auditlog.Entry
}

// object takes what is the log's, in its order.
func (a *auditSnapshot) object(so *raftstorepb.SnapshotObject, head *raftstorepb.SnapshotHeader) error {
	switch {
	case !isAudit(so.Table) && a.head == nil:
		return nil
	case !isAudit(so.Table):
		return errors.New("an object behind the audit log")
	case head.Level < recordSince:
		return fmt.Errorf("an audit log in a store of level %d", max(head.Level, firstLevel))
	case so.Table == auditLogObject:
		if a.head != nil {
			return errors.New("there are two audit logs")
		}
		a.head = &raftstorepb.AuditLog{}
		return unmarshalStrict(so.Object, a.head)
	case a.head == nil:
		return errors.New("an entry of the audit log before the log")
	}
	e := &raftstorepb.AuditEntry{}
	if err := unmarshalStrict(so.Object, e); err != nil {
		return err
	}
	if e.Index > head.Index {
		return fmt.Errorf("an entry of the audit log is of entry %d, and the snapshot of %d", e.Index, head.Index)
	}
	a.entries = append(a.entries, auditlog.Entry{Index: e.Index, Clock: e.Clock, Record: e.Record})
	return nil
}

// restored is the log: the one that was written, by its root, or an error.
func (a *auditSnapshot) restored() (auditlog.Log, error) {
	if a.head == nil {
		return auditlog.Log{}, nil
	}
	var h auditlog.Hash
	if len(a.head.Roots)%len(h) != 0 || len(a.head.Root) != len(h) || uint64(len(a.entries)) != a.head.Entries || len(a.head.Roots)+len(a.entries) == 0 {
		return auditlog.Log{}, errors.New("the audit log is not whole")
	}
	var roots []auditlog.Hash
	for b := a.head.Roots; len(b) > 0; b = b[len(h):] {
		roots = append(roots, auditlog.Hash(b[:len(h)]))
	}
	l, err := auditlog.Restored(roots, a.entries)
	if err != nil {
		return auditlog.Log{}, fmt.Errorf("the audit log: %w", err)
	}
	reader := auditlog.Reader{Log: l}
	if root, err := reader.Root(l.Size()); err != nil || root != auditlog.Hash(a.head.Root) {
		return auditlog.Log{}, errors.Join(errors.New("the audit log has another root than the snapshot says"), err)
	}
	return l, nil
}
