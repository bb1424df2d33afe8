package control_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/audit"
)

// sealing makes a head that nobody opens.
type sealing struct{}

func (sealing) SealBackup(context.Context, uint64) (head, stateKey []byte, err error) {
	return []byte("head"), bytes.Repeat([]byte{1}, autolock.KeyLen), nil
}

// backupCall is a stream that bears so many messages; its call has its request.
type backupCall struct {
	grpc.ServerStream
	ctx  context.Context
	left int
}

func (c *backupCall) Context() context.Context { return c.ctx }
func (c *backupCall) RecvMsg(any) error        { return nil }
func (c *backupCall) SendMsg(any) error {
	if c.left--; c.left < 0 {
		return io.ErrClosedPipe
	}
	return nil
}

// TestBackupThatBreaksOffIsNone: a backup is on record as made where all of it was
// sent, and not for having been begun.
func TestBackupThatBreaksOffIsNone(t *testing.T) {
	w := emptyJudged(t)
	api := control.New(control.Config{Store: w.store, ClusterID: w.ca.ClusterID, Backups: sealing{}, Logger: slog.New(slog.DiscardHandler)})
	log := &audit.Log{Store: w.store, Manager: w.manager}
	back := func(bears int) error {
		call := &backupCall{ctx: t.Context(), left: bears}
		return log.Stream(nil, call, &grpc.StreamServerInfo{FullMethod: controlpb.Control_CreateBackup_FullMethodName}, func(_ any, ss grpc.ServerStream) error {
			req := &controlpb.CreateBackupRequest{}
			if err := ss.RecvMsg(req); err != nil {
				return err
			}
			return api.CreateBackup(req, &grpc.GenericServerStream[controlpb.CreateBackupRequest, controlpb.CreateBackupResponse]{ServerStream: ss})
		})
	}
	if err := back(1); err == nil {
		t.Fatal("a stream that broke off is no error")
	}
	if got := w.run()["backup-recent"]; !strings.HasPrefix(got, "fail: no backup was made") {
		t.Errorf("of one that broke off: %s", got)
	}
	if err := back(1000); err != nil {
		t.Fatal(err)
	}
	if got := w.run()["backup-recent"]; !strings.HasPrefix(got, "pass: ") {
		t.Errorf("of a whole one: %s", got)
	}
}
