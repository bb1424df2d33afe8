package node

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
)

const (
	// checkpointInterval is how often the leader has the audit log's root signed,
	// where there is more in it than before.
	checkpointInterval = time.Minute
	// cosignPatience bounds the wait for one manager's signature, which is from when
	// it has as many records.
	cosignPatience = catchUp + 10*time.Second
)

// rootSigner is keyd.
type rootSigner interface {
	SignCheckpoint(context.Context, *keydpb.SignCheckpointRequest) (*keydpb.SignCheckpointResponse, error)
}

// signRoot has keyd sign the root of the first size records, with a proof that what
// it signed last is still there.
func signRoot(ctx context.Context, keyd rootSigner, r *auditlog.Reader, size uint64, root auditlog.Hash) (*keydpb.SignCheckpointResponse, error) {
	req := &keydpb.SignCheckpointRequest{Size: size, Root: root[:]}
	for range 3 { // the first one asks where keyd is, and another may come between
		resp, err := keyd.SignCheckpoint(ctx, req)
		if err != nil || len(resp.GetSignature()) > 0 {
			return resp, err
		}
		if req.Before, req.Proof = resp.GetLast(), nil; req.Before > size {
			return nil, fmt.Errorf("keyd has signed %d records, and here are %d", req.Before, size)
		}
		if req.Before == 0 {
			continue
		}
		proof, err := r.ProveTree(req.Before, size)
		if err != nil {
			return nil, err
		}
		for _, h := range proof {
			req.Proof = append(req.Proof, bytes.Clone(h[:]))
		}
	}
	return nil, errors.New("keyd signed others meanwhile")
}

// Cosign implements pkipb.WitnessServer.
func (s witnessServer) Cosign(ctx context.Context, req *pkipb.CosignRequest) (*pkipb.CosignResponse, error) {
	if req.GetSize() == 0 || len(req.GetRoot()) != len(auditlog.Hash{}) {
		return nil, status.Error(codes.InvalidArgument, "a root of the audit log has 32 bytes, and at least one record")
	}
	wait, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	if err := s.m.store.AwaitRecords(wait, req.GetSize()); err != nil && ctx.Err() != nil {
		return nil, err
	} // else it says that it has not so many
	r, err := s.m.store.Records()
	if err != nil {
		return nil, err
	}
	if have := r.Log.Size(); have < req.GetSize() {
		return nil, status.Errorf(codes.FailedPrecondition, "it has %d records, not %d", have, req.GetSize())
	}
	root, err := r.Root(req.GetSize())
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if !bytes.Equal(root[:], req.GetRoot()) {
		s.m.n.log.Error("the leader has another audit log than this manager: see `redoubt audit verify`", "records", req.GetSize())
		return &pkipb.CosignResponse{Forked: true}, nil
	}
	signed, err := signRoot(ctx, s.m.n.keyd, r, req.GetSize(), root)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &pkipb.CosignResponse{Cosignature: signed.GetCosignature(), Key: signed.GetOwnKey(), At: signed.GetAt(), Incarnation: signed.GetIncarnation()}, nil
}

// keepCheckpoints is the leader's: what the log's root was is signed, by it and by
// the managers that have the same.
func (m *managerState) keepCheckpoints(ctx context.Context) error {
	if err := m.store.AwaitRecords(ctx, 1); err != nil {
		return err
	}
	for {
		if err := m.makeCheckpoint(ctx); err != nil && ctx.Err() == nil {
			m.n.log.Warn("the audit log has no new checkpoint", "err", err, "retry_in", checkpointInterval)
		}
		if sleep(ctx, checkpointInterval) != nil {
			return ctx.Err()
		}
	}
}

func (m *managerState) makeCheckpoint(ctx context.Context) error {
	r, err := m.store.Records()
	if err != nil {
		return err
	}
	size := r.Log.Size()
	last, foreign, err := m.lastCheckpoint()
	if err != nil || size == 0 || size == last.GetSize() && len(last.GetDissents()) == 0 {
		return err
	}
	root, err := r.Root(size)
	if err != nil {
		return err
	}
	signed, err := signRoot(ctx, m.n.keyd, r, size, root)
	if err != nil {
		return err
	}
	self := m.store.NodeID()
	c := checkpoint.Checkpoint{Cluster: m.n.who().ClusterID, Incarnation: signed.GetIncarnation(), Size: size, Root: root}
	pins, err := m.auditPins()
	if err != nil {
		return err
	}
	made := assembly{c: c, pins: pins, keys: []string{checkpoint.ClusterKey(c, signed.GetKey())}, lines: []string{checkpoint.ClusterLine(c, signed.GetKey(), signed.GetSignature())}}
	made.add(self, &pkipb.CosignResponse{Cosignature: signed.GetCosignature(), Key: signed.GetOwnKey(), At: signed.GetAt(), Incarnation: signed.GetIncarnation()}, nil)
	for id, a := range m.cosignatures(ctx, c) {
		made.add(id, a.resp, a.err)
	}
	if err := made.check(); err != nil {
		return err
	}
	for _, d := range made.dissents {
		if d.GetForked() {
			m.n.log.Error("a manager has another audit log than the leader: see `redoubt audit verify`", "node", d.GetNodeId(), "records", size)
		}
	}
	if size == last.GetSize() && sameDissents(made.dissents, last.GetDissents()) {
		return nil
	}
	return m.recordCheckpoint(ctx, foreign, &made)
}

func sameDissents(a, b []*pkipb.AuditDissent) bool {
	return slices.EqualFunc(a, b, func(a, b *pkipb.AuditDissent) bool {
		return a.GetNodeId() == b.GetNodeId() && a.GetForked() == b.GetForked()
	})
}

type cosigned struct {
	resp *pkipb.CosignResponse
	err  error
}

// cosignatures asks all other managers at once.
func (m *managerState) cosignatures(ctx context.Context, c checkpoint.Checkpoint) map[string]cosigned {
	type answer struct {
		id string
		cosigned
	}
	others := m.witnesses()
	answers := make(chan answer)
	for _, p := range others {
		go func() {
			ctx, cancel := context.WithTimeout(ctx, cosignPatience)
			defer cancel()
			a := answer{id: p.id}
			a.err = m.askWitness(ctx, p.id, func(w pkipb.WitnessClient) (err error) {
				a.resp, err = w.Cosign(ctx, &pkipb.CosignRequest{Size: c.Size, Root: c.Root[:]})
				return err
			})
			answers <- a
		}()
	}
	out := map[string]cosigned{}
	for range others {
		a := <-answers
		out[a.id] = a.cosigned
	}
	return out
}

// assembly is a checkpoint that is put together.
type assembly struct {
	c           checkpoint.Checkpoint
	keys, lines []string // the cluster's first, then those of who signed
	dissents    []*pkipb.AuditDissent
	pins        map[string]string // the key of a manager, by its id, where it has signed before
}

// auditPins are the keys with which the managers that have signed go on to sign: what
// redoubtd of a manager says that its key is counts once for each keyd key that was
// certified for it.
func (m *managerState) auditPins() (map[string]string, error) {
	pins := map[string]string{}
	err := m.store.View(func(r *raftstore.ReadTx) error {
		for _, k := range pki.AuditKeys(r) {
			if id := pki.AuditKeyOf(m.n.who().ClusterID, k); id != "" && pins[id] == "" && bytes.Equal(k.GetKeydKey(), pki.KeydKeyOf(r, id)) {
				pins[id] = k.GetKey()
			}
		}
		return nil
	})
	return pins, err
}

// maxDissent bounds a reason, in bytes.
const maxDissent = 200

// add adds what a manager answered.
func (a *assembly) add(id string, resp *pkipb.CosignResponse, err error) {
	d := &pkipb.AuditDissent{NodeId: id}
	switch {
	case err != nil:
		d.Reason = "it did not sign: " + messageOf(err).Error()
	case resp.GetForked():
		d.Forked, d.Reason = true, "it has another audit log"
	case resp.GetIncarnation() != a.c.Incarnation:
		d.Reason = fmt.Sprintf("it is in incarnation %d of the cluster, not %d", resp.GetIncarnation(), a.c.Incarnation)
	default:
		key := checkpoint.ManagerKey(a.c.Cluster, id, resp.GetKey())
		line := checkpoint.ManagerLine(a.c.Cluster, id, resp.GetKey(), resp.GetAt(), resp.GetCosignature())
		_, err := checkpoint.Open(checkpoint.Note(a.c, line), []string{key})
		pin := a.pins[id]
		if err == nil && (pin == "" || pin == key) {
			a.keys, a.lines = append(a.keys, key), append(a.lines, line)
			return
		}
		if d.Reason = "its signature is not valid"; err == nil {
			d.Reason = "it signs with another key than before, and its keyd is the same"
		}
	}
	if len(d.Reason) > maxDissent {
		d.Reason = d.Reason[:maxDissent]
	}
	d.Reason = string(bytes.ToValidUTF8([]byte(d.Reason), nil))
	a.dissents = append(a.dissents, d)
	slices.SortFunc(a.dissents, func(a, b *pkipb.AuditDissent) int { return cmp.Compare(a.GetNodeId(), b.GetNodeId()) })
}

func (a *assembly) note() []byte { return checkpoint.Note(a.c, a.lines...) }

// check holds the whole against all keys, as who keeps it will.
func (a *assembly) check() error {
	signed, err := checkpoint.Open(a.note(), a.keys)
	if err != nil {
		return fmt.Errorf("what keyd signed is no checkpoint: %w", err)
	}
	if signed.Checkpoint != a.c || len(signed.By) != len(a.lines) {
		return errors.New("what keyd signed is another checkpoint")
	}
	return nil
}

// lastCheckpoint is the newest that is kept, unless it is none of the log: it has no
// record, so whoever led could have put anything there, and had no other made. Then
// foreign is its version.
func (m *managerState) lastCheckpoint() (last *pkipb.AuditCheckpoint, foreign uint64, err error) {
	if err := m.store.View(func(r *raftstore.ReadTx) error {
		last, _ = pkistore.AuditCheckpoints.Get(r, pkistore.CheckpointID)
		return nil
	}); err != nil || last == nil {
		return nil, 0, err
	}
	log, err := m.store.Records() // of no earlier moment
	if err != nil {
		return nil, 0, err
	}
	if _, err := checkpoint.OfLog(last.GetNote(), last.GetSize(), log.Log.Size(), log.Root); errors.As(err, new(*checkpoint.ForeignError)) {
		m.n.log.Error("what is kept as the newest checkpoint of the audit log is none, and is replaced", "err", err)
		return nil, last.GetMeta().GetVersion(), nil
	}
	return last, 0, nil
}

// recordCheckpoint keeps a checkpoint and the keys that verify it. New keys are in
// the audit log; a checkpoint is not: the log would never be at rest. It takes the place
// of a longer one of version foreign.
func (m *managerState) recordCheckpoint(ctx context.Context, foreign uint64, a *assembly) error {
	var fresh []string
	if err := m.store.View(func(r *raftstore.ReadTx) error {
		fresh = pki.NewAuditKeys(r, a.keys...)
		return nil
	}); err != nil {
		return err
	}
	if len(fresh) > 0 {
		if err := m.store.Update(m.records().Own(ctx, "audit keys"), func(tx *raftstore.Tx) error {
			return pki.PutAuditKeys(tx, m.n.who().ClusterID, time.Now(), fresh...)
		}); err != nil {
			return err
		}
	}
	return m.store.Update(ctx, func(tx *raftstore.Tx) error {
		rec, _ := pkistore.AuditCheckpoints.Get(tx, pkistore.CheckpointID)
		if rec.GetSize() > a.c.Size && rec.GetMeta().GetVersion() != foreign {
			return nil // another leader was faster
		}
		rec = proto.CloneOf(rec)
		if rec == nil {
			rec = &pkipb.AuditCheckpoint{Id: pkistore.CheckpointID}
		}
		rec.Note, rec.Size, rec.Dissents = a.note(), a.c.Size, a.dissents
		return pkistore.AuditCheckpoints.Put(tx, rec)
	})
}
