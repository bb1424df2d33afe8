package clitest

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
)

// auditLog has three records: a node revoked, a call refused, a backup made.
func auditLog() (*auditlog.Reader, error) {
	who := &auditpb.Caller{Name: "local root of node m1", Node: "m1", Role: "manager", LocalRoot: true, Manager: "m1", Address: "10.0.0.1:40000"}
	alice := &auditpb.Caller{Name: "person alice", Person: "alice", Manager: "m1", Address: "10.0.0.9:40000"}
	var l auditlog.Log
	for i, r := range []*auditpb.Record{
		{Request: "aaaa", Outcome: auditpb.Outcome_OUTCOME_DONE, Method: "redoubt.control.v1.Revocation/RevokeNode", Verbs: []string{"node.revoke"}, Objects: []string{"Node worker-3"}, Caller: who,
			Changes: []*auditpb.Change{{Table: "nodes", Id: "w3", Name: "worker\x1b-3", Kind: auditpb.Change_KIND_UPDATED, Fields: []*auditpb.Field{{Path: "denied", New: "true"}}}}},
		{Request: "bbbb", Outcome: auditpb.Outcome_OUTCOME_DENIED, Method: "redoubt.control.v1.Control/RemoveNode", Verbs: []string{"node.remove"}, Caller: alice, Reason: "it is for root", Times: 7},
		{Request: "cccc", Outcome: auditpb.Outcome_OUTCOME_READ, Method: "redoubt.control.v1.Control/CreateBackup", Verbs: []string{"backup.create"}, Caller: who},
	} {
		data, err := proto.Marshal(r)
		if err != nil {
			return nil, err
		}
		if l, err = l.Append(auditlog.Entry{Index: uint64(i + 10), Clock: time.Date(2125, 1, 2, 3, 4, i, 0, time.UTC).UnixNano(), Record: data}); err != nil {
			return nil, err
		}
	}
	return &auditlog.Reader{Log: l}, nil
}

func recordView(r *auditlog.Reader, n uint64) *controlpb.RecordView {
	e, _ := r.Entry(n)
	return &controlpb.RecordView{Number: n, Index: e.Index, Clock: e.Clock, Record: e.Record}
}

// ListRecords implements Audit.
func (n *Node) ListRecords(_ context.Context, req *controlpb.ListRecordsRequest) (*controlpb.ListRecordsResponse, error) {
	r, err := auditLog()
	if err != nil {
		return nil, err
	}
	size := r.Log.Size()
	from := req.GetFrom()
	if req.GetNewest() {
		from = size - min(size, uint64(req.GetCount()))
	}
	resp := &controlpb.ListRecordsResponse{Size: size}
	for i := from; i < size && i-from < uint64(req.GetCount()); i++ {
		resp.Records = append(resp.Records, recordView(r, i))
	}
	return resp, nil
}

// ProveRecord implements Audit; the proof of a node that is away is wrong.
func (n *Node) ProveRecord(_ context.Context, req *controlpb.ProveRecordRequest) (*controlpb.ProveRecordResponse, error) {
	r, err := auditLog()
	if err != nil {
		return nil, err
	}
	size := r.Log.Size()
	if req.GetNumber() >= size {
		return nil, apierr.NotFound("", "the audit log has no record %d: it has %d", req.GetNumber(), size)
	}
	root, err := r.Root(size)
	if err != nil {
		return nil, err
	}
	proof, err := r.Prove(req.GetNumber(), size)
	if err != nil {
		return nil, err
	}
	resp := &controlpb.ProveRecordResponse{Record: recordView(r, req.GetNumber()), Size: size, Root: root[:]}
	for _, h := range proof {
		if n.away {
			h[0] ^= 1
		}
		resp.Proof = append(resp.Proof, h[:])
	}
	return resp, nil
}

// VerifyRecords implements Audit; where a manager is away another has a changed
// record.
func (n *Node) VerifyRecords(context.Context, *controlpb.VerifyRecordsRequest) (*controlpb.VerifyRecordsResponse, error) {
	root := make([]byte, 32)
	resp := &controlpb.VerifyRecordsResponse{Size: 3, Root: root, Managers: []*controlpb.ManagerRecords{
		{Id: "m1", Name: "manager-1", Root: root}, {Id: "m2", Name: "manager-2", Root: root, Missing: 2}}}
	if n.away {
		resp.Managers = append(resp.Managers, &controlpb.ManagerRecords{Id: "m3", Name: "manager-3", Absent: "no route"},
			&controlpb.ManagerRecords{Id: "m4", Root: fmt.Append(nil, "other"), Forked: true, FirstForked: 1})
	}
	return resp, nil
}
