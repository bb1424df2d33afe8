package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/keyscan"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// defaultStore is where a manager's store is that was installed as it comes.
const defaultStore = "/var/lib/redoubt/control/raft"

func (a *app) storeCmd() *cobra.Command {
	c := &cobra.Command{Use: "store", Short: "The keys that managers' copies of the cluster's state are sealed with"}
	group(c)
	c.AddCommand(a.storeLsCmd(), a.storeRotateCmd(), a.storeScanCmd())
	return c
}

func (a *app) storeLsCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List each manager's key, its age, and whether one of before is kept",
		Example: `  redoubt store ls`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				stream, err := api.RotateStoreKeys(ctx, &controlpb.RotateStoreKeysRequest{Watch: true})
				if err != nil {
					return err
				}
				r, err := stream.Recv()
				if err != nil {
					return err
				}
				var ids []string
				var rows [][]string
				for _, m := range r.Managers {
					ids = append(ids, m.NodeId)
					made := "not known"
					if at := m.GetKey().GetMadeAt(); at > 0 {
						made = time.Unix(at, 0).UTC().Format(time.RFC3339)
					}
					rows = append(rows, []string{shortID(m.NodeId), m.Name, strconv.FormatUint(uint64(m.GetKey().GetEpoch()), 10), made, storeKeyState(m)})
				}
				return out.list(a.Stdout, ids, protoJSON(r), []string{"MANAGER", "HOSTNAME", "KEY EPOCH", "MADE", "STATE"}, rows)
			})
		},
	}
	out.flags(c, true)
	return c
}

// storeKeyState is a line about a manager's key.
func storeKeyState(m *controlpb.StoreKeyProgress) string {
	state := cmp.Or(describeStoreKey(m.Key), "current")
	if m.GetKey().GetFormerEpoch() == 0 && m.GetKey().GetEpoch() < m.Wanted {
		state = "a new one was asked for"
		if t := m.GetKey().GetTrouble(); t != "" {
			state += ": " + printable(t)
		}
	}
	if !m.Reachable {
		state += ", away"
	}
	return state
}

// describeStoreKey says what is to be said of a key; empty: nothing.
func describeStoreKey(k *schedulerpb.StoreKeyState) string {
	state := ""
	switch {
	case k.GetEpoch() == 0:
		state = "not said yet"
	case k.GetFormerEpoch() != 0:
		state = fmt.Sprintf("renewing: epoch %d is kept", k.GetFormerEpoch())
	}
	if t := k.GetTrouble(); t != "" {
		state += ": " + printable(t)
	}
	return strings.TrimPrefix(state, ": ")
}

func (a *app) storeRotateCmd() *cobra.Command {
	var wait time.Duration
	c := &cobra.Command{
		Use:   "rotate-key [MANAGER...]",
		Short: "Give managers' stores new keys",
		Long: `rotate-key has each named manager, or all, seal its copy of the cluster's state
under a new key while it goes on serving, look at every byte of its files for
records under the key of before, and forget that key. A manager does so by
itself too: when the unlock slots changed, and when its key is old.

Each manager is named when it is done. Where that is not within --timeout the
command ends with exit code 3; the manager goes on by itself, and
` + "`redoubt store ls`" + ` shows when it is done.`,
		Example: `  # All managers
  redoubt store rotate-key

  # One of them
  redoubt store rotate-key manager-2`,
		Args: args(0, -1),
		RunE: func(c *cobra.Command, nodes []string) error { return a.runStoreRotate(c.Context(), nodes, wait) },
	}
	c.Flags().DurationVar(&wait, "timeout", storeKeyWait, "how long to wait for every manager")
	return c
}

func (a *app) runStoreRotate(ctx context.Context, nodes []string, wait time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx, c, done, err := a.reach(ctx, wait)
	if err != nil {
		return err
	}
	defer done()
	stream, err := c.RotateStoreKeys(ctx, &controlpb.RotateStoreKeysRequest{Nodes: nodes})
	if err != nil {
		return apiclient.Err(err)
	}
	var last *controlpb.RotateStoreKeysResponse
	told := map[string]bool{}
	away := time.AfterFunc(math.MaxInt64, cancel)
	defer away.Stop()
	for waiting := false; ; {
		r, err := stream.Recv()
		if err != nil {
			return storeRotateFailed(last, err)
		}
		last = r
		hopeless := true // nobody that is there is left
		for _, m := range r.Managers {
			switch {
			case m.Key.GetEpoch() < m.Wanted || m.Key.GetFormerEpoch() != 0:
				hopeless = hopeless && !m.Reachable
			case !told[m.NodeId]:
				told[m.NodeId] = true
				fmt.Fprintf(a.Stdout, "%s has a new key (epoch %d); nothing under the one before is left, and it is forgotten.\n", nodeLabel(m.Name, m.NodeId), m.Key.GetEpoch())
			}
		}
		if r.Done {
			return nil
		}
		switch {
		case hopeless && !waiting:
			away.Reset(rotateAway)
		case !hopeless:
			away.Stop()
		}
		waiting = hopeless
	}
}

// storeRotateFailed says how far it got.
func storeRotateFailed(last *controlpb.RotateStoreKeysResponse, err error) error {
	if last == nil {
		return apiclient.Err(err)
	}
	why := ""
	switch e := apierr.Decode(err); {
	case errors.Is(err, io.EOF):
		why = "the leader ended the call; "
	case e.Reason != apierr.ReasonTimeout && e.Reason != apierr.ReasonCanceled:
		why = e.Message + "; "
	}
	var left []string
	for _, m := range last.Managers {
		if m.Key.GetEpoch() < m.Wanted || m.Key.GetFormerEpoch() != 0 {
			left = append(left, fmt.Sprintf("%s (%s)", nodeLabel(m.Name, m.NodeId), storeKeyState(m)))
		}
	}
	return failf(ExitNotConverged, "not done yet: %s: %sit goes on by itself; see `redoubt store ls`", strings.Join(left, ", "), why)
}

func (a *app) storeScanCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use:   "scan [DIRECTORY]",
		Short: "Count the sealed records in a store's files, by the epoch of their key",
		Long: `scan reads every byte of every file below DIRECTORY (default ` + defaultStore + `,
or raft.N beside it after a recovery or a restore) and counts what looks like a
sealed record, by the epoch of the key that sealed it and by suite. It needs no key,
asks no daemon, and takes files, databases and free space alike: after a key was
renewed there is one epoch, and on a node in FIPS mode suite 2 alone. It needs the
rights to read the files: run it as root.

Run it on this machine's own store, on a copy, or on a disk that was found.`,
		Example: `  redoubt store scan

  # A copy of a disk
  redoubt store scan /mnt/copy/control/raft`,
		Args: args(0, 1),
		RunE: func(c *cobra.Command, dirs []string) error {
			dir := defaultStore
			if len(dirs) > 0 {
				dir = dirs[0]
			}
			r, err := keyscan.Dir(c.Context(), dir)
			if err != nil {
				return fmt.Errorf("the store was not looked through: %w", err)
			}
			return a.printScan(&out, r)
		},
	}
	out.flags(c, false)
	return c
}

func (a *app) printScan(out *output, r keyscan.Report) error {
	epochs, suites := slices.Sorted(maps.Keys(r.Epochs())), slices.Sorted(maps.Keys(r.Suites()))
	row := func(name, size string, byEpoch map[uint32]uint64, bySuite map[uint8]uint64) []string {
		row := []string{name, size}
		for _, e := range epochs {
			row = append(row, strconv.FormatUint(byEpoch[e], 10))
		}
		for _, s := range suites {
			row = append(row, strconv.FormatUint(bySuite[s], 10))
		}
		return row
	}
	var rows [][]string
	for _, f := range r.Files {
		rows = append(rows, row(printable(f.Path), strconv.FormatInt(f.Bytes, 10), f.Records, f.Suites))
	}
	head, total := []string{"FILE", "BYTES"}, row("total", "", r.Epochs(), r.Suites())
	for _, e := range epochs {
		head = append(head, fmt.Sprintf("EPOCH %d", e))
	}
	for _, s := range suites {
		head = append(head, fmt.Sprintf("SUITE %d", s))
	}
	objects := struct {
		Epochs map[uint32]uint64 `json:"epochs"`
		Suites map[uint8]uint64  `json:"suites"`
		Files  []keyscan.File    `json:"files"`
	}{r.Epochs(), r.Suites(), r.Files}
	return out.list(a.Stdout, nil, objects, head, append(rows, total))
}
