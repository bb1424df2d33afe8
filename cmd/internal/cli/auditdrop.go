package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/auditarchive"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
)

func (a *app) auditDropCmd() *cobra.Command {
	var dir, keysFile string
	var below uint64
	c := &cobra.Command{
		Use: "drop --archive DIR", Short: "Have the managers keep records no more that an archive has",
		Long: `drop has all managers remove their files of the oldest segments of the audit log,
once this command has verified that the archive has them: it reads every file of it,
and sends a digest of the roots, which must be those of the log. The roots stay in
the cluster for ever, so what the archive has can be proved, and "audit verify" says
who had what dropped, and when. It can not be undone: see to copies of the archive.

Refused are records that are younger than "redoubt audit retention" says, those that
a manager or a witness has not signed yet, and the newest segments.`,
		Example: `  redoubt audit drop --archive /mnt/worm/audit --keys /mnt/worm/keys
  redoubt audit drop --archive /mnt/worm/audit --below 43008`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if dir == "" {
				return usagef("give the archive that has what is to be dropped: --archive DIR, which `redoubt audit archive` wrote")
			}
			var keys []string
			if keysFile != "" {
				var err error
				if keys, err = readKeys(keysFile); err != nil {
					return err
				}
			}
			return a.within(c.Context(), archiveTimeout, func(ctx context.Context, api *api) error {
				newest, err := newestCheckpoint(ctx, api)
				if err != nil {
					return err
				}
				if keys == nil {
					keys = newest.keys
				}
				archive, err := auditarchive.Read(ctx, dir, keys)
				if err != nil {
					return archiveFailed(err)
				}
				first, next := newest.dropped(), archive.Next
				if c.Flags().Changed("below") {
					next = min(next, below/auditlog.SegmentEntries)
				}
				switch {
				case archive.Cluster != newest.signed.Cluster:
					return failf(ExitError, "%s is of another cluster, %s", dir, archive.Cluster)
				case next <= first && first > 0:
					return failf(ExitError, "%s were dropped already, and there are none behind them in %s", segmentsText(0, first), dir)
				case next <= first:
					return failf(ExitError, "--below %d leaves no whole segment of %d records", below, auditlog.SegmentEntries)
				case archive.First > first:
					return failf(ExitError, "%s begins with segment %d, and the managers have those from %d on: what is dropped is the oldest", dir, archive.First, first)
				}
				digest := archive.Digest(first, next)
				if _, err := api.DropRecords(ctx, &controlpb.DropRecordsRequest{First: first, Next: next, Digest: digest[:]}); err != nil {
					return err
				}
				_, err = fmt.Fprintln(a.Stdout, segmentsText(first, next))
				return err
			})
		},
	}
	c.Flags().StringVar(&dir, "archive", "", "the directory that has what is to be dropped")
	c.Flags().StringVar(&keysFile, "keys", "", "a file with the keys that verify it, in place of those that the cluster tells")
	c.Flags().Uint64Var(&below, "below", 0, "only segments all of whose records have smaller numbers")
	return c
}

// dropJSON is what was dropped at a time, in `audit retention --format json`.
type dropJSON struct {
	First   uint64    `json:"first"`
	Last    uint64    `json:"last"`
	Dropped time.Time `json:"dropped"`
	By      string    `json:"by"`
	Request string    `json:"request"`
}

func (a *app) auditRetentionCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "retention [DAYS]", Short: "Show or set how long records are kept, and list what was dropped",
		Long: `retention says how many days a record must be old before the managers may drop it
(redoubt audit drop), and lists what they dropped, and for whom. With a number of days
it sets that; 90 is what it is until then.`,
		Example: `  redoubt audit retention
  redoubt audit retention 365`,
		Args: args(0, 1),
		RunE: func(c *cobra.Command, given []string) error {
			if len(given) > 0 {
				days, err := strconv.ParseUint(given[0], 10, 16)
				if err != nil {
					return usagef("%q is no number of days", given[0])
				}
				return a.with(c.Context(), func(ctx context.Context, api *api) error {
					_, err := api.SetRetention(ctx, &controlpb.SetRetentionRequest{Keep: proto.Int64(int64(days) * 86400)})
					return err
				})
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				newest, err := newestCheckpoint(ctx, api)
				if err != nil {
					return err
				}
				fmt.Fprintf(a.Stderr, "records are kept for %d days at least\n", newest.retention.GetKeep()/86400)
				var ids []string
				objects := []dropJSON{}
				var rows [][]string
				for _, d := range newest.retention.GetDrops() {
					v := dropJSON{d.GetFirst(), d.GetNext() - 1, unixUTC(d.GetAt()), d.GetBy(), d.GetRequest()}
					ids, objects = append(ids, strconv.FormatUint(v.First, 10)), append(objects, v)
					rows = append(rows, []string{fmt.Sprintf("%d-%d", v.First, v.Last), fmt.Sprintf("%d-%d", v.First*auditlog.SegmentEntries, d.GetNext()*auditlog.SegmentEntries-1), v.Dropped.Format(time.RFC3339), printable(v.By), printable(v.Request)})
				}
				return out.list(a.Stdout, ids, objects, []string{"SEGMENTS", "RECORDS", "DROPPED", "BY", "REQUEST"}, rows)
			})
		},
	}
	out.flags(c, true)
	return c
}

// tellDropped says which records the managers have no more, and who has it to answer for.
func tellDropped(w io.Writer, v *controlpb.RetentionView) {
	for _, d := range v.GetDrops() {
		fmt.Fprintf(w, "archived: %s, dropped on %s by %s, request %s\n", segmentsText(d.GetFirst(), d.GetNext()), unixUTC(d.GetAt()).Format(time.RFC3339), printable(d.GetBy()), printable(d.GetRequest()))
	}
}
