package control

import (
	"context"
	"io"

	"github.com/redoubt-cluster/redoubt/autolock/backup"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/audit"
)

// Backups has keyd make the head of a backup, and the key that seals its state.
type Backups interface {
	SealBackup(ctx context.Context, index uint64) (head, stateKey []byte, err error)
}

// CreateBackup streams the whole state as it is after everything that was
// acknowledged before the call, with the cluster's keys, which this process
// never sees.
func (s *Server) CreateBackup(_ *controlpb.CreateBackupRequest, stream controlpb.Control_CreateBackupServer) error {
	ctx := stream.Context()
	barrier, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	if err := s.c.Store.Barrier(barrier); err != nil {
		return err
	}
	out := &backupStream{send: func(p []byte) error { return stream.Send(&controlpb.CreateBackupResponse{Data: p}) }}
	var w *backup.Writer
	err := s.c.Store.Export(func(index uint64) (io.Writer, error) {
		head, stateKey, err := s.c.Backups.SealBackup(ctx, index)
		if err != nil {
			return nil, err
		}
		defer clear(stateKey)
		w, err = backup.NewWriter(out, head, stateKey)
		return w, err
	})
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	// Who asked for it is on record. That it was made is what the control of backups
	// goes by, and is said of no stream that broke off.
	if err := audit.Done(ctx, s.c.Store); err != nil {
		return err
	}
	s.c.Logger.InfoContext(ctx, "backup made", "bytes", out.sent)
	return nil
}

// backupStream sends what is written to it.
type backupStream struct {
	send func([]byte) error
	sent int
}

// Write implements io.Writer.
func (b *backupStream) Write(p []byte) (int, error) {
	b.sent += len(p)
	return len(p), b.send(p)
}
