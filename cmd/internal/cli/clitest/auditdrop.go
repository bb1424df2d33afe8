package clitest

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
)

// DropRecords implements Audit.
func (n *Node) DropRecords(_ context.Context, req *controlpb.DropRecordsRequest) (*controlpb.DropRecordsResponse, error) {
	r, err := n.auditLog()
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	digest := auditlog.Digest(req.GetFirst(), r.Log.Roots()[req.GetFirst():req.GetNext()])
	switch {
	case n.keep > 0:
		return nil, apierr.State("leave the younger ones with --below RECORD", "record %d is 5 days old: records are kept for %d days at least", req.GetNext()*auditlog.SegmentEntries-1, n.keep/86400)
	case !bytes.Equal(digest[:], req.GetDigest()):
		return nil, apierr.State("", "those of the archive are not those of the audit log")
	}
	n.drops = append(n.drops, &controlpb.DropView{First: req.GetFirst(), Next: req.GetNext(), At: time.Date(2125, 1, 2, 3, 5, 6, 0, time.UTC).Unix(), By: "person:alice", Request: "aaaabbbbcccc"})
	return &controlpb.DropRecordsResponse{}, nil
}

// SetRetention implements Audit.
func (n *Node) SetRetention(_ context.Context, req *controlpb.SetRetentionRequest) (*controlpb.SetRetentionResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.keep = req.GetKeep()
	return &controlpb.SetRetentionResponse{}, nil
}

func (n *Node) retention() *controlpb.RetentionView {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &controlpb.RetentionView{Keep: n.keep, Drops: n.drops}
}

func (n *Node) droppedError(number uint64) error {
	for _, d := range n.retention().GetDrops() {
		if number < d.GetNext()*auditlog.SegmentEntries {
			return apierr.State(fmt.Sprintf("it is in the archive that was made of it: `redoubt audit show %d --archive DIR --keys FILE`", number), "record %d is here no more", number)
		}
	}
	return nil
}
