package raftstore

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
)

// Draft is an imported state before there is a store of it: what is changed here
// was always so for whoever opens the store.
type Draft struct {
	fsm     *fsm
	archive *archive // of the store that is made
	log     *slog.Logger
}

// CopyRecords takes over older segments of the audit log from a store that has
// them: a state does not. What that store lacks, or has another of, is left out,
// and missing here; those before the first one wanted are nobody's to have.
func (d *Draft) CopyRecords(from *Store, first uint64) error {
	have := d.fsm.state.audit
	r := &auditlog.Reader{Log: have, Segment: from.fsm.archive.read} // from may have stopped
	for n := first; n < have.Segments()-uint64(len(have.Kept())); n++ {
		s, err := r.FullSegment(n)
		if err != nil {
			d.log.Error("a part of the audit log is not taken over", "segment", n, "err", err)
			continue
		}
		if err := d.archive.keep(s); err != nil {
			return fmt.Errorf("%w: %w", errArchive, err)
		}
	}
	return nil
}

// View runs fn on the state.
func (d *Draft) View(fn func(*ReadTx) error) error {
	r, err := d.fsm.read()
	if err != nil {
		return err
	}
	return fn(r)
}

// Update runs fn on the state and keeps what it wrote: all of it or nothing. It
// goes by the rules of Store.Update, through the same state machine.
func (d *Draft) Update(ctx context.Context, fn func(*Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	tx, err := d.fsm.begin(time.Now())
	if err != nil {
		return err
	}
	if err := runTx(ctx, tx, fn); err != nil {
		return err
	}
	t, err := tx.encode()
	if err != nil || t == nil {
		return err
	}
	data, err := proto.Marshal(&raftstorepb.Command{Now: tx.Now().UnixNano(), Transactions: []*raftstorepb.Transaction{t}})
	if err != nil {
		return err
	}
	switch results := d.fsm.Apply(&raft.Log{Index: d.fsm.index + 1, Data: data}).(type) {
	case error:
		return results
	case []error:
		return results[0]
	default:
		return fmt.Errorf("raftstore: the state machine answered %T", results)
	}
}
