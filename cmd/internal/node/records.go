package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/audit"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
)

const (
	// recordsPatience bounds one question to another manager, which reads all that
	// it has of the audit log, and catchUp the wait until it has as much as the
	// leader.
	recordsPatience = 2 * time.Minute
	catchUp         = 5 * time.Second
	// lackInterval is how often a manager looks whether it lacks any of the log.
	lackInterval = time.Minute
	// maxSegment is what an answer with a segment may have.
	maxSegment = auditlog.MaxSegmentBytes + 1<<10
)

// records makes the records of what this manager answers and does.
func (m *managerState) records() *audit.Log {
	return &audit.Log{Store: m.store, Manager: m.store.NodeID()}
}

// recording has a server's calls recorded. It stands behind who judges them.
func recording(l *audit.Log) []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(l.Unary), grpc.ChainStreamInterceptor(l.Stream)}
}

// recordsOf asks the other managers about the audit log.
type recordsOf struct{ m *managerState }

func (r recordsOf) Others() (out []string) {
	for _, p := range r.m.witnesses() {
		out = append(out, p.id)
	}
	return out
}

func (r recordsOf) Ask(ctx context.Context, id string, size uint64, verify bool) (*controlpb.ManagerRecords, error) {
	ctx, cancel := context.WithTimeout(ctx, recordsPatience)
	defer cancel()
	var resp *pkipb.RecordsResponse
	err := r.m.askWitness(ctx, id, func(c pkipb.WitnessClient) (err error) {
		resp, err = c.Records(ctx, &pkipb.RecordsRequest{Size: size, Verify: verify})
		return err
	})
	return &controlpb.ManagerRecords{Root: resp.GetRoot(), Fault: resp.GetFault(), Missing: resp.GetMissing()}, err
}

// askWitness connects to the manager of that id, of those in the configuration.
func (m *managerState) askWitness(ctx context.Context, id string, ask func(pkipb.WitnessClient) error) error {
	for _, p := range m.witnesses() {
		if p.id != id {
			continue
		}
		c, _, err := m.toWitness(ctx, p.id, p.addr)
		if err != nil {
			return err
		}
		defer c.Close()
		return ask(pkipb.NewWitnessClient(c))
	}
	return fmt.Errorf("%s is no manager", id)
}

// Records implements pkipb.WitnessServer.
func (s witnessServer) Records(ctx context.Context, req *pkipb.RecordsRequest) (*pkipb.RecordsResponse, error) {
	wait, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	if err := s.m.store.AwaitRecords(wait, req.GetSize()); err != nil && ctx.Err() != nil {
		return nil, err
	} // else it says that it has not so many
	r, err := control.Records(ctx, s.m.store, req.GetSize(), req.GetVerify())
	return &pkipb.RecordsResponse{Root: r.GetRoot(), Fault: r.GetFault(), Missing: r.GetMissing()}, err
}

// Segment implements pkipb.WitnessServer.
func (s witnessServer) Segment(_ context.Context, req *pkipb.SegmentRequest) (*pkipb.SegmentResponse, error) {
	r, err := s.m.store.Records()
	if err != nil {
		return nil, err
	}
	if req.GetNumber() >= r.Log.Segments() {
		return nil, status.Errorf(codes.NotFound, "the audit log has no full segment %d here", req.GetNumber())
	}
	segment, err := r.FullSegment(req.GetNumber())
	if err != nil {
		return nil, status.Error(codes.NotFound, err.Error())
	}
	return &pkipb.SegmentResponse{Segment: segment.Encode()}, nil
}

// keepRecords has this manager's files of the audit log be those that it should have:
// what was dropped goes, and what it lacks it gets from the others, as one does whose
// state came with a snapshot.
func (m *managerState) keepRecords(ctx context.Context) error {
	for {
		w, err := m.store.Watch(nil, pkistore.AuditRetention) // before it is read
		if err != nil {
			return err
		}
		err = m.sortRecords(ctx)
		if err == nil {
			look, cancel := context.WithTimeout(ctx, lackInterval)
			_, _ = w.Next(look) // a change, or a minute
			cancel()
		}
		w.Close()
		if err = cmp.Or(err, ctx.Err()); err != nil {
			return err
		}
	}
}

func (m *managerState) sortRecords(ctx context.Context) error {
	var dropped uint64
	if err := m.store.View(func(r *raftstore.ReadTx) error {
		dropped = pkistore.DroppedSegments(r)
		return nil
	}); err != nil {
		return err
	}
	if err := m.store.DropRecords(dropped); err != nil {
		m.n.log.Warn("files of the audit log that were dropped are still here", "before_segment", dropped, "err", err)
	}
	lacks, err := m.store.MissingRecords(dropped)
	if err != nil {
		return err
	}
	for _, n := range lacks {
		if err := m.fetchSegment(ctx, n); err != nil {
			m.n.log.Warn("a part of the audit log is not here, and was not found at another manager", "segment", n, "lacking", len(lacks), "err", err)
			break // the next one would be no better
		}
	}
	return nil
}

// fetchSegment asks one manager after another.
func (m *managerState) fetchSegment(ctx context.Context, n uint64) error {
	err := fmt.Errorf("there is no other manager")
	for _, p := range m.witnesses() {
		ask, cancel := context.WithTimeout(ctx, 10*witnessPatience)
		err = m.askWitness(ask, p.id, func(c pkipb.WitnessClient) error {
			resp, err := c.Segment(ask, &pkipb.SegmentRequest{Number: n}, grpc.MaxCallRecvMsgSize(maxSegment))
			if err != nil {
				return err
			}
			return m.store.KeepRecords(n, resp.GetSegment())
		})
		cancel()
		if err == nil {
			return nil
		}
	}
	return messageOf(err)
}

// newDenials has what this manager refuses recorded: by itself while it leads, by
// the leader else.
func (m *managerState) newDenials() *audit.Denials {
	return audit.NewDenials(m.records(), m.sendRefused, func(n int, err error) {
		m.n.log.Warn("calls that were refused are not in the audit log", "records", n, "err", err)
	})
}

// refusedHere has a refusal of one of this machine's own sockets recorded, where this is
// an unlocked manager. Elsewhere there is no audit log; the node's own has it.
func (n *Node) refusedHere(id authz.Identity, method, reason string) {
	n.mu.Lock()
	m, ok := n.live.(*managerState)
	n.mu.Unlock()
	if !ok {
		return
	}
	switch self := m.store.NodeID(); { // as other managers and the leader name them
	case id.User != "":
		id.UserOf = self
	case id.LocalRoot:
		id.LocalRootOf = self
	}
	m.denials.Refused(id, method, reason)
}

// sendRefused has refusals recorded, or, where nobody does, written down by keyd for
// later.
func (m *managerState) sendRefused(ctx context.Context, records []*auditpb.Record) error {
	err := m.recordRefused(ctx, records)
	if err == nil || m.store.Level().Cluster < journalLevel {
		return err
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), refusedTimeout)
	defer cancel()
	if nerr := m.noteRefused(late, records); nerr != nil {
		return errors.Join(err, nerr)
	}
	return nil
}

func (m *managerState) recordRefused(ctx context.Context, records []*auditpb.Record) error {
	if m.store.IsLeader() {
		return m.records().Commit(ctx, m.store.NodeID(), records)
	}
	req := &pkipb.RefusedRequest{}
	for _, r := range records {
		b, err := proto.Marshal(r)
		if err != nil {
			return err
		}
		req.Records = append(req.Records, b)
	}
	leader, _ := m.store.Leader()
	return messageOf(m.askWitness(ctx, leader, func(c pkipb.WitnessClient) error {
		_, err := c.Refused(ctx, req)
		return err
	}))
}

// Refused implements pkipb.WitnessServer.
func (s witnessServer) Refused(ctx context.Context, req *pkipb.RefusedRequest) (*pkipb.RefusedResponse, error) {
	id, ok := authz.FromContext(ctx)
	switch {
	case !ok || id.NodeID == "":
		return nil, status.Error(codes.PermissionDenied, "the caller is not known")
	case !s.m.store.IsLeader():
		return nil, status.Error(codes.FailedPrecondition, "this manager does not lead")
	}
	var records []*auditpb.Record
	for _, b := range req.GetRecords() {
		r := &auditpb.Record{}
		if err := proto.Unmarshal(b, r); err != nil {
			return nil, status.Error(codes.InvalidArgument, "that is no record")
		}
		records = append(records, r)
	}
	return &pkipb.RefusedResponse{}, s.m.records().Commit(ctx, id.NodeID, records)
}
