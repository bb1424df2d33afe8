package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/auditarchive"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
)

func (a *app) auditArchiveCmd() *cobra.Command {
	var below uint64
	var before string
	c := &cobra.Command{
		Use: "archive DIR", Short: "Keep older records outside of the cluster, with their proofs",
		Long: `archive writes whole segments of the audit log, of 1024 records each, into a
directory, a file each, with the newest checkpoint and the proof that the segment is
of the log that the cluster and its managers signed there. Again, it adds those that
are new. Nothing of the cluster is needed to verify such a directory: only the keys,
which are kept elsewhere (redoubt audit checkpoint --keys).

What is archived can be dropped by the managers: redoubt audit drop. Records are
written as they are, with names and addresses: keep the directory accordingly.`,
		Example: `  redoubt audit archive /mnt/worm/audit
  redoubt audit archive /mnt/worm/audit --before 2026-09-01
  redoubt audit archive /mnt/worm/audit --below 43008`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, given []string) error {
			until := time.Time{}
			if before != "" {
				var err error
				if until, err = time.Parse(time.DateOnly, before); err != nil {
					return usagef("--before %s: a day is written as 2026-09-01", before)
				}
			}
			_, client, done, err := a.reach(c.Context(), archiveTimeout)
			if err != nil {
				return err
			}
			defer done()
			return decodeUnlessOurs(a.archive(c.Context(), client, given[0], below, c.Flags().Changed("below"), until))
		},
	}
	c.Flags().Uint64Var(&below, "below", 0, "only segments all of whose records have smaller numbers")
	c.Flags().StringVar(&before, "before", "", "only segments all of whose records are older than this day, UTC")
	return c
}

// archive writes what the newest checkpoint has of whole segments, bounded by a record's
// number and by a time where that is one.
func (a *app) archive(ctx context.Context, api *api, dir string, below uint64, bounded bool, until time.Time) error {
	newest, err := newestCheckpoint(ctx, api)
	if err != nil {
		return err
	}
	end := newest.signed.Size / auditlog.SegmentEntries
	if bounded {
		end = min(end, below/auditlog.SegmentEntries)
	}
	n := newest.dropped()
	for first := n; ; n++ {
		var s *auditarchive.Segment
		if n < end {
			s, err = auditarchive.Open(dir, n, newest.keys)
			if errors.As(err, new(*auditarchive.MissingError)) {
				if s, err = newest.fetch(ctx, api, n); err != nil {
					return err
				}
			}
			if err != nil {
				return archiveFailed(err)
			}
		}
		if s == nil || !until.IsZero() && !time.Unix(0, s.Entries[len(s.Entries)-1].Clock).Before(until) {
			if n == first {
				return failf(ExitError, "there is no whole segment of %d records to be archived yet", auditlog.SegmentEntries)
			}
			_, err := fmt.Fprintf(a.Stdout, "%s\n", segmentsText(first, n))
			return err
		}
		if err := auditarchive.Write(dir, s, newest.keys); err != nil {
			return failf(ExitError, "%v", err)
		}
	}
}

// segmentsText names the segments from first on and before next.
func segmentsText(first, next uint64) string {
	return fmt.Sprintf("segments %d to %d (records %d to %d)", first, next-1, first*auditlog.SegmentEntries, next*auditlog.SegmentEntries-1)
}

// newestLog is the newest checkpoint that the cluster has, with the keys that it tells.
type newestLog struct {
	signed    checkpoint.Signed
	note      []byte
	keys      []string
	retention *controlpb.RetentionView
}

func newestCheckpoint(ctx context.Context, api *api) (*newestLog, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := api.GetCheckpoint(ctx, &controlpb.GetCheckpointRequest{})
	if err != nil {
		return nil, err
	}
	signed, err := checkpoint.Open(resp.GetNote(), resp.GetKeys())
	if err != nil {
		return nil, failf(ExitError, "what the leader sent is no checkpoint: %v", err)
	}
	return &newestLog{signed, resp.GetNote(), resp.GetKeys(), resp.GetRetention()}, nil
}

// dropped is how many segments the managers dropped.
func (l *newestLog) dropped() uint64 { return droppedSegments(l.retention) }

func droppedSegments(v *controlpb.RetentionView) uint64 {
	if d := v.GetDrops(); len(d) > 0 {
		return d[len(d)-1].GetNext()
	}
	return 0
}

// fetch gets a segment, record by record, with what leads from it to the checkpoint. What
// comes is held against that where it is written.
func (l *newestLog) fetch(ctx context.Context, api *api, n uint64) (*auditarchive.Segment, error) {
	s := &auditarchive.Segment{Note: l.note, Segment: auditlog.Segment{Number: n}}
	first := n * auditlog.SegmentEntries
	for len(s.Entries) < auditlog.SegmentEntries {
		resp, err := recordsFrom(ctx, api, first+uint64(len(s.Entries)))
		if err != nil {
			return nil, err
		}
		for _, v := range resp.GetRecords() {
			if len(s.Entries) < auditlog.SegmentEntries {
				s.Entries = append(s.Entries, entryOf(v))
			}
		}
		if len(resp.GetRecords()) == 0 {
			return nil, failf(ExitError, "the leader gives no record %d", first+uint64(len(s.Entries)))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := api.ProveRecord(ctx, &controlpb.ProveRecordRequest{Number: first, Size: l.signed.Size})
	if err != nil {
		return nil, apiclient.Err(err)
	}
	proof, err := proofOf(resp)
	if err == nil {
		s.Above, err = auditlog.Above(proof)
	}
	if err != nil {
		return nil, failf(ExitError, "what the leader sent does not prove segment %d: see `redoubt audit verify`", n)
	}
	return s, nil
}

// verifyArchive holds an archive against the keys, and against a checkpoint that was kept
// where there is one. It asks nobody.
func (a *app) verifyArchive(ctx context.Context, dir, file, keysFile string) error {
	if keysFile == "" {
		return usagef("--archive needs --keys FILE: what an archive says of itself proves nothing; `redoubt audit checkpoint --keys` printed them")
	}
	keys, err := readKeys(keysFile)
	if err != nil {
		return err
	}
	archive, err := auditarchive.Read(ctx, dir, keys)
	if err != nil {
		return archiveFailed(err)
	}
	if file != "" {
		kept, err := readKept(file, keysFile)
		if err != nil {
			return err
		}
		signed, err := kept.signedBy(keys, "in "+keysFile)
		if err != nil {
			return err
		}
		if err := archive.Holds(signed.Checkpoint); err != nil {
			return failf(ExitError, "%s: %v", file, err)
		}
		fmt.Fprintf(a.Stderr, "they are of the log whose first %d records that checkpoint is of, which %s signed\n", signed.Size, signers(signed))
	}
	digest := archive.Digest(archive.First, archive.Next)
	_, err = fmt.Fprintf(a.Stdout, "%s: %s of cluster %s, digest %x, are what %s signed\n", dir, segmentsText(archive.First, archive.Next), archive.Cluster, digest, signers(archive.Newest))
	return err
}

// archiveFailed is why an archive is not what somebody signed.
func archiveFailed(err error) error {
	if errors.As(err, new(*checkpoint.UnsignedError)) {
		return failf(ExitError, "%v: give the keys of then, which `redoubt audit checkpoint --keys` prints as well", err)
	}
	return failf(ExitError, "%s", oneline.Text(err.Error(), maxFault))
}

// archived is a record that an archive has, and the proof of it.
func archived(dir, keysFile string, n uint64) (provedJSON, error) {
	if keysFile == "" {
		return provedJSON{}, usagef("--archive needs --keys FILE, which `redoubt audit checkpoint --keys` printed")
	}
	keys, err := readKeys(keysFile)
	if err != nil {
		return provedJSON{}, err
	}
	s, err := auditarchive.Open(dir, n/auditlog.SegmentEntries, keys)
	if err != nil {
		return provedJSON{}, archiveFailed(err)
	}
	e := s.Entries[n%auditlog.SegmentEntries]
	resp := &controlpb.ProveRecordResponse{Size: s.Signed.Size, Root: s.Signed.Root[:],
		Record: &controlpb.RecordView{Number: n, Index: e.Index, Clock: e.Clock, Record: e.Record}}
	for _, h := range s.Proof(n, s.Above) {
		resp.Proof = append(resp.Proof, h[:])
	}
	return proved(resp, n)
}
