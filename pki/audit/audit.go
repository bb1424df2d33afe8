// Package audit makes the records of the audit log: who did what, to what, from
// where.
//
// # What it owns
//
// The record (auditpb) and how it comes about. The interceptors of a Log put into
// a call's context who calls and what the request says it does. Whatever the
// handler then changes, in this package or any other, in one transaction or in
// several, has a record in each of them: raftstore asks for it where a
// transaction is composed, so no handler can forget it, and none can do anything
// whose record is not committed with it. What was changed is read from the
// transaction itself, field by field, as protobuf has them.
//
// # What it refuses
//
// A value that may be secret is not in a record: bytes are told by their length
// unless their field says that they are open, and texts that a field says are
// secret are not told at all (secrecypb). It keeps no log: raftstore does.
//
// # Use
//
//	log := &audit.Log{Store: store, Manager: nodeID}
//	grpc.ChainUnaryInterceptor(log.Unary) // behind the authorizer's
//
// What a manager does by itself it does under Own.
package audit

import (
	"context"
	"encoding/hex"
	"errors"
	"net"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// Store is what records go into.
type Store interface {
	Update(ctx context.Context, fn func(*raftstore.Tx) error) error
}

// Log makes the records of the calls that a manager answers. It may be used
// concurrently.
type Log struct {
	Store Store
	// Manager is the id of this node.
	Manager string
}

// reads are the verbs whose calls are recorded though they change nothing.
var reads = map[string]bool{"backup.create": true, "compliance.inspect": true, "compliance.run": true, "config.read": true, "service.exec": true, "service.logs": true}

// reporting are the services by which nodes say how things are with them. They
// change nothing but that, and come many times a second.
var reporting = []string{"/redoubt.scheduler.v1.Dispatcher/", "/redoubt.scheduler.v1.Delivery/", "/redoubt.scheduler.v1.WorkloadIdentity/"}

func reports(method string) bool {
	for _, prefix := range reporting {
		if strings.HasPrefix(method, prefix) {
			return true
		}
	}
	return false
}

// Unary is the interceptor of unary calls.
func (l *Log) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if reports(info.FullMethod) {
		return next(ctx, req)
	}
	m, _ := req.(proto.Message)
	ctx, err := l.begin(ctx, info.FullMethod, m)
	if err != nil {
		return nil, err
	}
	return next(ctx, req)
}

// Stream is the interceptor of streams. What a stream does is known when its
// request was read, and one that has a single request reads it first.
func (l *Log) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if reports(info.FullMethod) {
		return next(srv, ss)
	}
	return next(srv, &stream{ServerStream: ss, log: l, method: info.FullMethod, draft: l.draft(ss.Context(), info.FullMethod)})
}

// stream adds to the draft what the first message says. Its context has the draft
// from the beginning.
type stream struct {
	grpc.ServerStream
	log    *Log
	method string
	draft  *auditpb.Record
	begun  bool
}

func (s *stream) Context() context.Context { return with(s.ServerStream.Context(), s.draft) }

func (s *stream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil || s.begun {
		return err
	}
	s.begun = true
	s.draft.Approval = authz.ApprovalOf(s.ServerStream.Context()) // known since it was judged
	if p, ok := m.(proto.Message); ok {
		describe(s.draft, s.method, p)
	}
	return s.log.noteRead(s.ServerStream.Context(), s.draft)
}

// begin returns the context of a call's handler.
func (l *Log) begin(ctx context.Context, method string, req proto.Message) (context.Context, error) {
	d := l.draft(ctx, method)
	if req != nil {
		describe(d, method, req)
	}
	if err := l.noteRead(ctx, d); err != nil {
		return nil, err
	}
	return with(ctx, d), nil
}

func (l *Log) draft(ctx context.Context, method string) *auditpb.Record {
	id, _ := authz.FromContext(ctx)
	return &auditpb.Record{Request: ident.New()[:12], Outcome: auditpb.Outcome_OUTCOME_DONE,
		Method: strings.TrimPrefix(method, "/"), Caller: l.caller(id), Approval: authz.ApprovalOf(ctx)}
}

// Refusing returns the context of what is written down of a call because it is
// refused for that reason.
func (l *Log) Refusing(ctx context.Context, method string, request proto.Message, reason string) context.Context {
	d := l.draft(ctx, method)
	describe(d, method, request)
	d.Outcome, d.Reason = auditpb.Outcome_OUTCOME_DENIED, clip(reason, maxReason)
	return with(ctx, d)
}

// describe adds what the request says that it does.
func describe(d *auditpb.Record, method string, req proto.Message) {
	acts, _ := authz.ActsOf(method, req) // none: it is not ours to judge
	for _, a := range acts[:min(len(acts), maxActs)] {
		if len(d.Verbs) == 0 || d.Verbs[len(d.Verbs)-1] != a.Verb {
			d.Verbs = append(d.Verbs, a.Verb)
		}
		if a.Ref != "" {
			d.Objects = append(d.Objects, clip(a.Kind+" "+a.Ref, maxObject))
		}
	}
}

// noteRead records a call that reads what not everybody may know, before it does.
func (l *Log) noteRead(ctx context.Context, d *auditpb.Record) error {
	for _, v := range d.GetVerbs() {
		if reads[v] {
			r := proto.CloneOf(d)
			r.Outcome = auditpb.Outcome_OUTCOME_READ
			return l.alone(ctx, r)
		}
	}
	return nil
}

// Begun records that the call of ctx is about to do what has no other record, with what
// its request turned out to name, which the record of its end has as well. It does nothing
// where no records are made.
func Begun(ctx context.Context, store Store, found ...string) error {
	d, _ := ctx.Value(draftKey{}).(*auditpb.Record)
	if d == nil {
		return nil
	}
	d.Objects = slices.Clip(d.Objects)
	for _, f := range found[:min(len(found), maxActs)] {
		d.Objects = append(d.Objects, clip(f, maxObject))
	}
	r := proto.CloneOf(d)
	r.Outcome = auditpb.Outcome_OUTCOME_BEGUN
	return (&Log{Store: store}).alone(ctx, r)
}

// Done records that the call of ctx has come to its end, where it changes nothing that
// would be recorded: that it was begun, which is recorded before, says nothing of that.
// It does nothing where no records are made.
func Done(ctx context.Context, store Store) error {
	d, _ := ctx.Value(draftKey{}).(*auditpb.Record)
	if d == nil {
		return nil
	}
	return (&Log{Store: store}).alone(ctx, proto.CloneOf(d))
}

// alone commits a record that goes with no change.
func (l *Log) alone(ctx context.Context, r *auditpb.Record) error {
	ctx, cancel := context.WithTimeout(ctx, aloneTimeout)
	defer cancel()
	err := l.Store.Update(ctx, func(tx *raftstore.Tx) error {
		data, err := proto.Marshal(r)
		if err != nil {
			return err
		}
		return tx.Record(data)
	})
	if errors.As(err, new(*raftstore.LevelError)) {
		return nil // the log begins when every manager knows of it
	}
	return err
}

func (l *Log) caller(id authz.Identity) *auditpb.Caller {
	c := &auditpb.Caller{Name: clip(id.String(), maxValue), Node: clip(id.NodeID, maxValue), LocalRoot: id.LocalRoot, Person: clip(id.Person, maxValue), User: clip(id.User, maxValue),
		Key: hex.EncodeToString(id.SPKI), Manager: l.Manager}
	if id.NodeID != "" {
		c.Role = profile.RoleName(id.Role)
	}
	if id.LocalRoot && id.LocalRootOf == "" {
		c.Node = l.Manager
	}
	if id.Source != nil {
		c.Address = clip(addressOf(id.Source), maxValue)
	}
	return c
}

func addressOf(a net.Addr) string {
	if s := a.String(); s != "" && s != "@" {
		return s
	}
	return a.Network()
}

// Own returns the context of what a manager does by itself: what it is called
// stands for the method.
func (l *Log) Own(ctx context.Context, what string) context.Context {
	return with(ctx, &auditpb.Record{Request: ident.New()[:12], Outcome: auditpb.Outcome_OUTCOME_DONE, Method: what,
		Caller: &auditpb.Caller{Name: "manager " + l.Manager, Node: l.Manager, Role: "manager", Manager: l.Manager}})
}

type draftKey struct{}

// with has every change under the context recorded as the draft says, and what it
// does.
func with(ctx context.Context, d *auditpb.Record) context.Context {
	return raftstore.WithRecorder(context.WithValue(ctx, draftKey{}, d), func(tx *raftstore.Tx) ([]byte, error) {
		r := filled(d)
		changesOf(tx, r)
		return proto.Marshal(r)
	})
}

// filled is a record of all that the draft says, to be added to; the draft's own parts
// are for reading.
func filled(d *auditpb.Record) *auditpb.Record {
	return &auditpb.Record{Request: d.GetRequest(), Outcome: d.GetOutcome(), Method: d.GetMethod(), Verbs: d.GetVerbs(), Caller: d.GetCaller(),
		Changes: slices.Clip(d.GetChanges()), Omitted: d.GetOmitted(), Reason: d.GetReason(), Times: d.GetTimes(),
		Objects: d.GetObjects(), Approval: d.GetApproval(), Imported: d.GetImported()}
}

// Request is the id that all records of the call have; empty where none are made.
func Request(ctx context.Context) string {
	d, _ := ctx.Value(draftKey{}).(*auditpb.Record)
	return d.GetRequest()
}
