package node

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/backup"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/version"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// restoreRequest is a Restore whose first message was read.
type restoreRequest struct {
	advertise string
	file      io.Reader
}

// Restore is Bootstrap's.
func (b bootstrap) Restore(in controlpb.Bootstrap_RestoreServer) error {
	first, err := in.Recv()
	if err != nil {
		return err
	}
	if len(first.GetData()) > 0 {
		return apierr.Invalid("", "the first message of a restore has no data")
	}
	m, err := b.n.ask(in.Context(), &restoreRequest{first.GetAdvertise(), &received{next: func() ([]byte, error) {
		msg, err := in.Recv()
		return msg.GetData(), err
	}}})
	if err != nil {
		return err
	}
	return in.SendAndClose(&controlpb.RestoreResponse{ClusterId: m.ClusterID, NodeId: m.NodeID, Incarnation: b.n.incarnation.Load()})
}

// received reads a stream of messages as the file that was cut into them.
type received struct {
	next func() ([]byte, error)
	rest []byte
}

// Read implements io.Reader.
func (r *received) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		data, err := r.next()
		if err != nil {
			return 0, err
		}
		r.rest = data
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// restore makes this node the first manager of the cluster in a backup, which
// keyd was given the key for. As with a join, nothing is a member before the
// membership file is there.
func (n *Node) restore(ctx context.Context, req *restoreRequest) (*member, error) {
	advertise, err := n.cfg.advertised(req.advertise)
	if err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	if n.disk.used() {
		return nil, apierr.State("use another --data-dir, or empty it if what it holds is not needed any more",
			"the data directory holds a store but no membership")
	}
	file, err := backup.NewReader(req.file)
	if err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	key, csr, err := newKeyAndCSR()
	if err != nil {
		return nil, err
	}
	bootKey, bootCSR, err := newKeyAndCSR()
	if err != nil {
		return nil, err
	}
	m := &member{NodeID: ident.New(), Manager: true, Name: n.cfg.Name, Advertise: advertise, Managers: []string{advertise}}
	resp, err := n.keyd.FinishRestore(ctx, &keydpb.FinishRestoreRequest{NodeId: m.NodeID, ManagerCsr: csr, BootCsr: bootCSR, Head: file.Raw})
	if err != nil {
		return nil, apierr.State("", "keyd: %v", err)
	}
	m.ClusterID = resp.GetClusterId()
	stateKey := resp.GetStateKey()
	defer clear(stateKey)
	if err = n.importState(ctx, m, file, stateKey, resp); err == nil {
		err = n.keepManager(ctx, m, resp.GetManager(), key, resp.GetBoot(), bootKey)
	}
	if err != nil {
		return nil, errors.Join(err, n.forget(ctx))
	}
	n.log.Warn("a backup was restored", "cluster", m.ClusterID, "node", m.NodeID, "incarnation", resp.GetIncarnation())
	return m, nil
}

// importState makes the store out of a backup's state.
func (n *Node) importState(ctx context.Context, m *member, file *backup.Reader, stateKey []byte, resp *keydpb.FinishRestoreResponse) error {
	incarnation := resp.GetIncarnation()
	lent, err := n.keyd.OpenStore(ctx, &keydpb.OpenStoreRequest{})
	if err != nil {
		return fmt.Errorf("keyd: %w", err)
	}
	defer clear(lent.GetDek())
	sealer, err := autolock.NewRing(lent.GetDek(), lent.GetDekEpoch())
	if err != nil {
		return err
	}
	defer sealer.Close()
	cfg := raftstore.Config{Dir: n.disk.raftDir(incarnation), NodeID: m.NodeID, ClusterID: m.ClusterID, Incarnation: incarnation,
		Tables: tables(), Sealer: sealer, LogStore: raftstore.LogStore(n.cfg.Raft.LogStore), Logger: n.log.With("part", "store"),
		Transport: raftstore.Transport{Advertise: raftstore.JoinAddr(m.NodeID, m.Advertise)}}
	pr, pw := io.Pipe()
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		pw.CloseWithError(file.State(pw, stateKey)) // nil is the end
	}()
	err = raftstore.Import(cfg, pr, func(d *raftstore.Draft) (raftstore.Position, error) {
		<-opened // what follows the state in the file was checked, too
		return raftstore.Position{Index: file.Head.Facts.GetIndex()}, beginIncarnation(ctx, d, incarnation, m, resp.GetManager(), resp.GetBoot())
	})
	pr.CloseWithError(errors.New("the state could not be written"))
	<-opened
	if err != nil {
		return apierr.Invalid("", "the backup cannot be restored, and nothing was kept: %v", err)
	}
	return nil
}

// backups makes a backup's head by way of this node's keyd.
type backups struct{ n *Node }

func (b backups) SealBackup(ctx context.Context, index uint64) (head, stateKey []byte, err error) {
	resp, err := b.n.keyd.SealBackup(ctx, &keydpb.SealBackupRequest{Index: index, Version: version.String()})
	return resp.GetHead(), resp.GetStateKey(), messageOf(err)
}
