package cli

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
)

func (a *app) auditVerbs() []*cobra.Command {
	return []*cobra.Command{a.auditLsCmd(), a.auditTailCmd(), a.auditShowCmd(), a.auditExportCmd(), a.auditProveCmd(), a.auditVerifyCmd(), a.auditCheckpointCmd(), a.auditWitnessCmd(),
		a.auditArchiveCmd(), a.auditDropCmd(), a.auditRetentionCmd()}
}

// newest is a request for that many, 0 for the records from a number on.
func newest(count uint32, from uint64, since bool) (*controlpb.ListRecordsRequest, error) {
	if count == 0 {
		return nil, usagef("--last is at least 1")
	}
	return &controlpb.ListRecordsRequest{Count: count, From: from, Newest: !since}, nil
}

func (a *app) auditLsCmd() *cobra.Command {
	var out output
	var filter filterFlag
	var last uint32
	var from uint64
	c := &cobra.Command{
		Use: "ls", Short: "List records of the audit log",
		Long: `ls lists the newest records of the audit log, or those from a number on: who
changed what, from where, what was refused, and what was read that not everybody
may know. MANAGER is who answered the call, and whose word it is where it was
refused. Filters apply to the records that were asked for.`,
		Example: `  redoubt audit ls
  redoubt audit ls --last 1000 --filter verb=node.revoke
  redoubt audit ls --filter person=alice --filter outcome=denied
  redoubt audit ls --from 0 --last 10 --format json`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			req, err := newest(last, from, c.Flags().Changed("from"))
			if err != nil {
				return err
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				var ids []string
				objects := []recordJSON{}
				var rows [][]string
				_, err := eachRecord(ctx, api, req, func(r recordJSON) error {
					if !r.matches(&filter) {
						return nil
					}
					ids, objects = append(ids, strconv.FormatUint(r.Number, 10)), append(objects, r)
					rows = append(rows, []string{strconv.FormatUint(r.Number, 10), r.Time.Format(time.RFC3339), r.Caller.Name, r.does(), out.text(r.what()), shortID(r.Caller.Manager), r.Outcome})
					return nil
				})
				if err != nil {
					return err
				}
				return out.list(a.Stdout, ids, objects, []string{"NUMBER", "TIME", "WHO", "DID", "TO", "MANAGER", "OUTCOME"}, rows)
			})
		},
	}
	out.flags(c, true)
	out.noTruncFlag(c)
	c.Flags().Uint32Var(&last, "last", 50, "at most so many records")
	c.Flags().Uint64Var(&from, "from", 0, "the records from this number on, in place of the newest")
	recordFilter(&filter, c)
	return c
}

func recordFilter(f *filterFlag, c *cobra.Command) {
	f.add(c, "outcome=done|denied|read|fault|begun", "verb", "who", "node", "person", "request", "table", "id", "name")
}

func (a *app) auditTailCmd() *cobra.Command {
	var filter filterFlag
	var last uint32
	var follow bool
	c := &cobra.Command{
		Use: "tail", Short: "Show the newest records of the audit log, and follow it",
		Example: `  redoubt audit tail --follow
  redoubt audit tail --last 100 --filter outcome=denied`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			req, err := newest(last, 0, false)
			if err != nil {
				return err
			}
			api, err := a.dial(c.Context())
			if err != nil {
				return err
			}
			defer api.Close()
			for {
				next, err := eachRecord(c.Context(), api, req, func(r recordJSON) error {
					if !r.matches(&filter) {
						return nil
					}
					return printLine(a.Stdout, r)
				})
				switch {
				case c.Context().Err() != nil:
					return nil // interrupted: that is how it is ended
				case err != nil:
					return decodeUnlessOurs(err)
				case !follow:
					return nil
				}
				req = &controlpb.ListRecordsRequest{From: next, Count: maxRecords}
				select {
				case <-time.After(recordsPause):
				case <-c.Context().Done():
					return nil
				}
			}
		},
	}
	c.Flags().Uint32Var(&last, "last", 10, "begin with so many records")
	c.Flags().BoolVar(&follow, "follow", false, "wait for more, until it is interrupted")
	recordFilter(&filter, c)
	return c
}

// eachRecord calls each with the records that were asked for, and returns the
// number of the next one.
func eachRecord(ctx context.Context, api *api, req *controlpb.ListRecordsRequest, each func(recordJSON) error) (next uint64, err error) {
	next = req.GetFrom()
	for left := req.GetCount(); left > 0; {
		resp, err := api.ListRecords(ctx, &controlpb.ListRecordsRequest{From: next, Count: min(left, maxRecords), Newest: req.GetNewest()})
		if err != nil {
			return next, err
		}
		for _, v := range resp.GetRecords() {
			r, err := recordOf(v)
			if err == nil {
				err = each(r)
			}
			if err != nil {
				return next, err
			}
			next, left = v.GetNumber()+1, left-1
		}
		if req.GetNewest() && len(resp.GetRecords()) == 0 {
			next = resp.GetSize()
		}
		if len(resp.GetRecords()) == 0 || next >= resp.GetSize() {
			break
		}
		req = &controlpb.ListRecordsRequest{From: next, Count: left}
	}
	return next, nil
}

func (a *app) auditShowCmd() *cobra.Command {
	var dir, keysFile string
	c := &cobra.Command{
		Use: "show NUMBER", Short: "Show a record of the audit log with all that was changed",
		Long: `show prints a record as JSON, with every field that was changed. With --archive it
reads an archive, and asks no cluster.`,
		Example: `  redoubt audit show 1042
  redoubt audit show 1042 --archive /mnt/worm/audit --keys /mnt/worm/keys`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, given []string) error {
			n, err := recordNumber(given[0])
			if err != nil {
				return err
			}
			if dir != "" {
				v, err := archived(dir, keysFile, n)
				if err != nil {
					return err
				}
				return printJSON(a.Stdout, v.Shown)
			}
			if keysFile != "" {
				return usagef("--keys goes with --archive")
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListRecords(ctx, &controlpb.ListRecordsRequest{From: n, Count: 1})
				if err != nil {
					return err
				}
				if len(r.GetRecords()) == 0 {
					return failf(ExitError, "the audit log has no record %d: it has %d", n, r.GetSize())
				}
				v, err := recordOf(r.GetRecords()[0])
				if err != nil {
					return err
				}
				return printJSON(a.Stdout, v)
			})
		},
	}
	c.Flags().StringVar(&dir, "archive", "", "a directory that redoubt audit archive wrote, in place of the cluster")
	c.Flags().StringVar(&keysFile, "keys", "", "a file with the keys that verify it")
	return c
}

func recordNumber(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, usagef("%q is no number of a record: see `redoubt audit ls`", s)
	}
	return n, nil
}

func (a *app) auditVerifyCmd() *cobra.Command {
	var out output
	var file, keysFile, dir string
	var witnessKeys []string
	c := &cobra.Command{
		Use: "verify", Short: "Have every manager read all of its audit log, and compare them",
		Long: `verify has every manager read what it has of the audit log, from its memory and
its disk, and hold it against the root of the whole log; and compares the roots.
Where a record was changed, it is named with the manager that has it so. A manager
that lacks older records, having begun with a snapshot, is no error: it gets them
from the others.

With --checkpoint it also proves, and checks the proof itself, that the log begins
with the records that a checkpoint is of which was kept outside of the cluster. So
it finds what all managers together have rewritten, or taken away. With --witness-key,
once for each witness outside of the cluster whose key you have of its operator, that
witness must have cosigned that checkpoint, too.

With --archive it asks no cluster, but verifies a directory that "audit archive" wrote:
every record and every proof against the checkpoints in it, and those by --keys; and
with --checkpoint that it is of the same log as one that was kept elsewhere.`,
		Example: `  redoubt audit verify
  redoubt audit verify --checkpoint /mnt/worm/checkpoint.2026-11-01 --keys /mnt/worm/keys
  redoubt audit verify --checkpoint /mnt/worm/checkpoint.2026-11-01 --witness-key witness.example/w1+a1b2c3d4+BA...
  redoubt audit verify --archive /mnt/worm/audit --keys /mnt/worm/keys`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if dir != "" {
				if len(witnessKeys) > 0 || out.quiet || out.structured() {
					return usagef("--archive goes with --keys and --checkpoint only")
				}
				return a.verifyArchive(c.Context(), dir, file, keysFile)
			}
			kept, err := readKept(file, keysFile)
			if err != nil {
				return err
			}
			cosigners, err := kept.witnesses(witnessKeys)
			if err != nil {
				return err
			}
			return a.within(c.Context(), verifyTimeout, func(ctx context.Context, api *api) error {
				req := &controlpb.VerifyRecordsRequest{}
				var signed checkpoint.Signed
				if kept != nil {
					if signed, err = kept.open(ctx, api); err != nil {
						return err
					}
					req.KeptSize, req.KeptRoot = signed.Size, signed.Root[:]
				}
				resp, err := api.VerifyRecords(ctx, req)
				if err != nil {
					return err
				}
				bad := ""
				var ids []string
				objects := []verifiedJSON{}
				var rows [][]string
				for _, m := range resp.GetManagers() {
					v := verifiedOf(resp, m)
					if v.State != "same" && v.State != "lacks some" && bad == "" {
						bad = fmt.Sprintf("manager %s: %s", nodeLabel(v.Name, v.ID), v.Message)
					}
					ids, objects = append(ids, v.ID), append(objects, v)
					rows = append(rows, []string{nodeLabel(v.Name, v.ID), strconv.FormatUint(resp.GetSize(), 10), v.State, v.Root, v.Message})
				}
				if err := out.list(a.Stdout, ids, objects, []string{"MANAGER", "RECORDS", "STATE", "ROOT", "MESSAGE"}, rows); err != nil {
					return err
				}
				tellDropped(a.Stderr, resp.GetRetention())
				if kept != nil {
					if why := holds(signed.Checkpoint, resp); why != nil && bad != "" {
						bad += "; " + why.Error()
					} else if why != nil {
						return why
					}
				}
				if bad != "" {
					return failf(ExitError, "%s", bad)
				}
				if kept != nil {
					fmt.Fprintf(a.Stderr, "the first %d records are those of the checkpoint, signed by %s\n", signed.Size, signers(signed))
					for _, w := range cosigners {
						fmt.Fprintf(a.Stderr, "witness %s cosigned it on %s\n", w.Name, w.At.Format(time.RFC3339))
					}
				}
				return nil
			})
		},
	}
	out.flags(c, false)
	c.Flags().StringVar(&file, "checkpoint", "", "a file with a checkpoint that was kept")
	c.Flags().StringVar(&keysFile, "keys", "", "a file with the keys that verify it, in place of those that the cluster tells")
	c.Flags().StringVar(&dir, "archive", "", "verify this directory, which redoubt audit archive wrote, in place of the cluster's log")
	c.Flags().StringArrayVar(&witnessKeys, "witness-key", nil, "the key of a witness outside of the cluster that must have cosigned it; may be repeated")
	return c
}
