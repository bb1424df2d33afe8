package clitest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
)

// auditLog has three records: a node revoked, a call refused, a backup made. A long one
// has two segments before them.
func (n *Node) auditLog() (*auditlog.Reader, error) {
	who := &auditpb.Caller{Name: "local root of node m1", Node: "m1", Role: "manager", LocalRoot: true, Manager: "m1", Address: "10.0.0.1:40000"}
	alice := &auditpb.Caller{Name: "person alice", Person: "alice", Manager: "m1", Address: "10.0.0.9:40000"}
	var l auditlog.Log
	for i := range n.long * auditlog.SegmentEntries {
		data, err := proto.Marshal(&auditpb.Record{Request: fmt.Sprint(i), Outcome: auditpb.Outcome_OUTCOME_DONE, Verbs: []string{"config.create"}, Caller: alice})
		if err != nil {
			return nil, err
		}
		if l, err = l.Append(auditlog.Entry{Index: uint64(i + 1), Clock: time.Date(2124, 1, 2, 3, 4, i, 0, time.UTC).UnixNano(), Record: data}); err != nil {
			return nil, err
		}
	}
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
	r, err := n.auditLog()
	if err != nil {
		return nil, err
	}
	size := r.Log.Size()
	from := req.GetFrom()
	if req.GetNewest() {
		from = size - min(size, uint64(req.GetCount()))
	}
	if err := n.droppedError(from); err != nil {
		return nil, err
	}
	resp := &controlpb.ListRecordsResponse{Size: size}
	for i := from; i < size && i-from < uint64(req.GetCount()); i++ {
		resp.Records = append(resp.Records, recordView(r, i))
	}
	return resp, nil
}

// ProveRecord implements Audit; the proof of a node that is away is wrong.
func (n *Node) ProveRecord(_ context.Context, req *controlpb.ProveRecordRequest) (*controlpb.ProveRecordResponse, error) {
	r, err := n.auditLog()
	if err != nil {
		return nil, err
	}
	size := r.Log.Size()
	if req.GetSize() > 0 {
		size = min(size, req.GetSize())
	}
	if req.GetNumber() >= size {
		return nil, apierr.NotFound("", "the audit log has no record %d: it has %d", req.GetNumber(), size)
	}
	if err := n.droppedError(req.GetNumber()); err != nil {
		return nil, err
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
func (n *Node) VerifyRecords(_ context.Context, req *controlpb.VerifyRecordsRequest) (*controlpb.VerifyRecordsResponse, error) {
	root := make([]byte, 32)
	resp := &controlpb.VerifyRecordsResponse{Size: 3, Root: root, Managers: []*controlpb.ManagerRecords{
		{Id: "m1", Name: "manager-1", Root: root}, {Id: "m2", Name: "manager-2", Root: root, Missing: 2}}, Retention: n.retention()}
	if n.away {
		resp.Managers = append(resp.Managers, &controlpb.ManagerRecords{Id: "m3", Name: "manager-3", Absent: "no route"},
			&controlpb.ManagerRecords{Id: "m4", Root: fmt.Append(nil, "other"), Forked: true, FirstForked: 1})
	}
	if req.GetKeptSize() > 0 {
		return resp, n.held(req, resp)
	}
	return resp, nil
}

// GetCheckpoint implements Audit: of the first two records. Where a manager is away
// it has not signed.
func (n *Node) GetCheckpoint(_ context.Context, req *controlpb.GetCheckpointRequest) (*controlpb.GetCheckpointResponse, error) {
	r, err := n.auditLog()
	if err != nil {
		return nil, err
	}
	size := uint64(2 + n.long*auditlog.SegmentEntries)
	root, err := r.Root(size)
	if err != nil {
		return nil, err
	}
	const cluster, m1 = "abcdefghijklmnopqrstuvwxya", "bbcdefghijklmnopqrstuvwxya"
	c := checkpoint.Checkpoint{Cluster: cluster, Incarnation: 1, Size: size, Root: root}
	at := time.Date(2125, 1, 2, 3, 4, 5, 0, time.UTC).Unix()
	sign := func(of byte, text []byte) (ed25519.PublicKey, []byte) {
		k := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{of}, ed25519.SeedSize))
		return k.Public().(ed25519.PublicKey), ed25519.Sign(k, text)
	}
	key, sig := sign(1, c.Text())
	own, cosig := sign(2, checkpoint.CosignText(c.Text(), at))
	resp := &controlpb.GetCheckpointResponse{Size: r.Log.Size(), Keys: []string{checkpoint.ClusterKey(c, key), checkpoint.ManagerKey(cluster, m1, own), reportKey(cluster)},
		Note: checkpoint.Note(c, checkpoint.ClusterLine(c, key, sig), checkpoint.ManagerLine(cluster, m1, own, at, cosig))}
	if n.away {
		resp.Dissents = []*controlpb.Dissent{{Id: "m3", Name: "manager-3", Reason: "no\x1b route"}, {Id: "m4", Forked: true, Reason: "it has another audit log"}}
	}
	resp.Retention = n.retention()
	return resp, n.witnessed(req, c, resp)
}

// held has what the leader proves to who kept a root: where a manager is away, the
// leader has rewritten the first record.
func (n *Node) held(req *controlpb.VerifyRecordsRequest, resp *controlpb.VerifyRecordsResponse) error {
	r, err := n.auditLog()
	if err != nil {
		return err
	}
	root, err := r.Root(resp.GetSize())
	if err != nil {
		return err
	}
	resp.Root = root[:]
	for _, m := range resp.GetManagers() {
		if !m.GetForked() && m.GetAbsent() == "" {
			m.Root = root[:]
		}
	}
	proof, err := r.ProveTree(req.GetKeptSize(), resp.GetSize())
	for _, h := range proof {
		if n.away {
			h[0] ^= 1
		}
		resp.Proof = append(resp.Proof, bytes.Clone(h[:]))
	}
	if n.away {
		resp.Managers[0].Rewritten, resp.Managers[0].FirstRewritten = true, proto.Uint64(0)
	}
	return err
}
