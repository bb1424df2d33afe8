package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// TestDiff: values that changed, by path; bytes by their length unless they are open.
func TestDiff(t *testing.T) {
	old := &pkipb.Node{Id: "n", Name: "a", Denied: false, LeafSpki: []byte{1}, Leaf: []byte("secret"), GivenKeydKeys: [][]byte{[]byte("k1")}}
	now := proto.CloneOf(old)
	now.Name, now.Denied, now.LeafSpki, now.Leaf = "b\xff", true, []byte{0xab, 2}, []byte("hidden!")
	now.GivenKeydKeys = append(now.GivenKeydKeys, []byte("k2"))
	var got []string
	d := differ{most: maxValue, elements: maxElements, stored: true, emit: func(path, was, is string) { got = append(got, fmt.Sprintf("%s:%s>%s", path, was, is)) }}
	d.messages("", old.ProtoReflect(), now.ProtoReflect())
	want := "name:a>b\uFFFD leaf_spki:01>ab02 denied:>true leaf:(6 bytes)>(7 bytes) given_keyd_keys[1]:>(2 bytes)"
	if strings.Join(got, " ") != want {
		t.Errorf("the difference is\n%s, want\n%s", strings.Join(got, " "), want)
	}
	got = nil
	d.messages("", now.ProtoReflect(), now.ProtoReflect())
	d.messages("", nil, nil)
	if len(got) > 0 {
		t.Errorf("of one thing and itself: %v", got)
	}
}

// TestARecordHasAllOfItsDraft: no field is forgotten, and a record's changes do not get
// into its call's next one.
func TestARecordHasAllOfItsDraft(t *testing.T) {
	d := &auditpb.Record{}
	fields := d.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		switch {
		case fd.IsList():
			d.ProtoReflect().Mutable(fd).List().Append(d.ProtoReflect().NewField(fd).List().NewElement())
		case fd.Message() != nil:
			d.ProtoReflect().Mutable(fd)
		case fd.Kind() == protoreflect.StringKind:
			d.ProtoReflect().Set(fd, protoreflect.ValueOfString("x"))
		case fd.Kind() == protoreflect.EnumKind:
			d.ProtoReflect().Set(fd, protoreflect.ValueOfEnum(1))
		default:
			d.ProtoReflect().Set(fd, protoreflect.ValueOfUint32(1))
		}
	}
	before, r := proto.CloneOf(d), filled(d)
	if !proto.Equal(r, d) {
		t.Errorf("a record is %v, its draft %v", r, d)
	}
	r.Changes, r.Omitted = append(r.Changes, &auditpb.Change{Id: "of this transaction"}), 9
	if !proto.Equal(d, before) || len(filled(d).GetChanges()) != len(before.GetChanges()) {
		t.Errorf("what was added to a record is in its draft: %v", d)
	}
}

func FuzzDiff(f *testing.F) {
	f.Add([]byte{}, []byte("\x12\x01a"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		x, y := &pkipb.Node{}, &pkipb.Node{}
		if proto.Unmarshal(a, x) != nil || proto.Unmarshal(b, y) != nil {
			return
		}
		r := &auditpb.Record{}
		d := differ{most: maxValue, elements: maxElements, stored: true, emit: func(path, was, is string) {
			r.Changes = append(r.Changes, &auditpb.Change{Fields: []*auditpb.Field{{Path: path, Old: was, New: is}}})
		}}
		d.messages("", x.ProtoReflect(), y.ProtoReflect())
		if _, err := proto.Marshal(r); err != nil {
			t.Fatal(err) // a text that is no UTF-8
		}
	})
}

func newLog(t *testing.T) (*Log, *raftstore.Store) {
	s := raftstoretest.New(t, pkistore.Tables()...)
	return &Log{Store: s, Manager: "m1"}, s
}

func recordsOf(t *testing.T, s *raftstore.Store) (out []*auditpb.Record) {
	t.Helper()
	r, err := s.Records()
	if err != nil {
		t.Fatal(err)
	}
	for n := range r.Log.Size() {
		e, err := r.Entry(n)
		if err != nil {
			t.Fatal(err)
		}
		rec := &auditpb.Record{}
		if err := proto.Unmarshal(e.Record, rec); err != nil {
			t.Fatal(err)
		}
		out = append(out, rec)
	}
	return out
}

// TestCall: several changes of one call have one request id, a failure none.
func TestCall(t *testing.T) {
	l, s := newLog(t)
	ctx := authz.NewContext(t.Context(), authz.Identity{NodeID: "w1", SPKI: []byte{1}})
	failed := errors.New("failed")
	_, err := l.Unary(ctx, &pkipb.LockStatusRequest{}, &grpc.UnaryServerInfo{FullMethod: "/redoubt.pki.v1.Lock/LockStatus"}, func(ctx context.Context, _ any) (any, error) {
		if Request(ctx) == "" {
			t.Error("the call has no id")
		}
		for i := range 2 {
			if err := s.Update(ctx, func(tx *raftstore.Tx) error {
				return pkistore.Nodes.Put(tx, &pkipb.Node{Id: fmt.Sprint(i), Name: fmt.Sprint("node-", i)})
			}); err != nil {
				return nil, err
			}
		}
		return nil, s.Update(ctx, func(tx *raftstore.Tx) error {
			return errors.Join(pkistore.Nodes.Put(tx, &pkipb.Node{Id: "2"}), failed)
		})
	})
	if !errors.Is(err, failed) {
		t.Fatal(err)
	}
	got := recordsOf(t, s)
	if len(got) != 2 || got[0].GetRequest() == "" || got[0].GetRequest() != got[1].GetRequest() ||
		got[1].GetChanges()[0].GetName() != "node-1" || got[1].GetChanges()[0].GetKind() != auditpb.Change_KIND_CREATED || got[0].GetCaller().GetKey() != "01" {
		t.Fatalf("records %v", got)
	}
	if _, err := l.Unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/redoubt.scheduler.v1.Dispatcher/Report"}, func(ctx context.Context, _ any) (any, error) {
		return nil, s.Update(ctx, func(tx *raftstore.Tx) error { return pkistore.Nodes.Delete(tx, "0") })
	}); err != nil || len(recordsOf(t, s)) != 2 {
		t.Fatalf("a report is recorded: %v", err)
	}
}

// TestLargeChange: what does not fit is counted, and the record is there.
func TestLargeChange(t *testing.T) {
	l, s := newLog(t)
	if err := s.Update(l.Own(t.Context(), "test"), func(tx *raftstore.Tx) error {
		for i := range 2000 {
			if err := pkistore.Nodes.Put(tx, &pkipb.Node{Id: fmt.Sprint(i), Name: fmt.Sprint(i, strings.Repeat("é", 150))}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	r := recordsOf(t, s)[0]
	if len(r.GetChanges()) == 0 || len(r.GetChanges())+int(r.GetOmitted()) < 2000 || proto.Size(r) > auditlog.MaxRecordBytes || r.GetCaller().GetName() != "manager m1" {
		t.Errorf("%d changes, %d omitted, %d bytes", len(r.GetChanges()), r.GetOmitted(), proto.Size(r))
	}
}

// TestDescribe: who approves a request sees all of it, also what is long, empty or in
// bytes.
func TestDescribe(t *testing.T) {
	long := &pkipb.CustomRole{Id: "id", Description: strings.Repeat("x", 2*maxValue), Verbs: slices.Repeat([]string{""}, maxElements)}
	long.Verbs = append(long.Verbs, "node.remove")
	got := Describe(long)
	if len(got) != maxElements+3 || got[0].GetNew() != "id" || got[1].GetNew() != long.Description || got[len(got)-1].GetNew() != "node.remove" {
		t.Errorf("%d fields, with %v", len(got), got[len(got)-1])
	}
	got = Describe(&pkipb.Approval{Hash: []byte{0xab}, Request: []byte{0xcd}, Votes: []*pkipb.Vote{{}, {Denied: true}}})
	var said []string
	for _, f := range got {
		said = append(said, f.GetPath()+"="+f.GetNew())
	}
	if strings.Join(said, " ") != "request=cd hash=ab votes[0]=(empty) votes[1].denied=true" {
		t.Error(said)
	}
}

// judgedStream is a stream whose request is judged when it is read, as package authz
// does: its context has the approval since then.
type judgedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *judgedStream) Context() context.Context { return s.ctx }
func (s *judgedStream) RecvMsg(any) error {
	s.ctx = authz.WithApproval(s.ctx, "approved")
	return nil
}

// TestStreamNamesItsApproval: what a stream changes is recorded with the approval that
// its request has.
func TestStreamNamesItsApproval(t *testing.T) {
	log, store := newLog(t)
	ss := &judgedStream{ctx: authz.NewContext(t.Context(), authz.Identity{Person: "ann"})}
	err := log.Stream(nil, ss, &grpc.StreamServerInfo{FullMethod: "/redoubt.control.v1.Authority/RotateCA"}, func(_ any, ss grpc.ServerStream) error {
		if err := ss.RecvMsg(&pkipb.Node{}); err != nil {
			return err
		}
		return store.Update(ss.Context(), func(tx *raftstore.Tx) error { return pkistore.Nodes.Put(tx, &pkipb.Node{Id: "n", Name: "n"}) })
	})
	got := recordsOf(t, store)
	if err != nil || len(got) != 1 || got[0].GetApproval() != "approved" {
		t.Errorf("%v, %v", got, err)
	}
}
