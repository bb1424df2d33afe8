package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// unlockFlags are unlock's.
type unlockFlags struct {
	file   string
	relay  []string
	forget bool
	wait   time.Duration
}

func (a *app) unlockCmd() *cobra.Command {
	var f unlockFlags
	c := &cobra.Command{
		Use:   "unlock [--key-file FILE] [--relay all|MANAGER,...]",
		Short: "Open this manager's store after a restart",
		Long: `unlock gives an operator key or shares to this machine's keyd, over its own
socket: no other process sees them. They are asked for without echo, or read
from stdin or --key-file, one a line. What is wrong changes nothing.

Shares come together: each person gives theirs, on this machine or on others
with --relay, and when there are enough the manager opens. Until then the
command ends with exit code 3 and says how many are here. They are forgotten
15 minutes after the last one came.

With --relay this machine's keyd also seals the share to the locked managers
that you name, or all that this machine knows. Name those alone of which you
know where they stand: a locked manager's disk in other hands looks the same.`,
		Example: `  redoubt unlock

  redoubt unlock --key-file /media/usb/redoubt.key

  # Five managers lost power: one share each, typed at three of them
  redoubt unlock --relay all`,
		Args: func(c *cobra.Command, got []string) error {
			for _, s := range got {
				if up := strings.ToUpper(s); strings.HasPrefix(up, "RDTKEY") || strings.HasPrefix(up, "RDTSHARE") {
					return usagef("the key is not taken from the command line, where every user of this machine can read it: give it on stdin or by --key-file FILE, and replace that one soon (`redoubt unlock-key rotate`, or `slot add` and `slot rm`)")
				}
			}
			return args(0, 0)(c, got)
		},
		RunE: func(c *cobra.Command, _ []string) error { return a.runUnlock(c.Context(), &f) },
	}
	c.Flags().StringVar(&f.file, "key-file", "", `file with the operator key or shares ("-": stdin, the default)`)
	c.Flags().StringSliceVar(&f.relay, "relay", nil, "give shares to these locked managers too: `all`, or names or addresses")
	c.Flags().BoolVar(&f.forget, "forget", false, "forget the shares that are here, and take none")
	c.Flags().DurationVar(&f.wait, "timeout", unlockWait, "how long to wait for the node to be active")
	return c
}

func (a *app) runUnlock(ctx context.Context, f *unlockFlags) error {
	path, err := a.socketPath()
	if err != nil {
		return err
	}
	keyd := apiclient.NewKeyd(filepath.Join(filepath.Dir(path), apiclient.UnlockSocket))
	defer keyd.Close()
	if f.forget {
		return bounded(ctx, func(ctx context.Context) error {
			n, err := keyd.DropShares(ctx)
			if err == nil {
				fmt.Fprintf(a.Stdout, "%d shares are forgotten.\n", n)
			}
			return err
		})
	}
	// That there is nothing to unlock is said before a key is asked for.
	if err := bounded(ctx, keyd.Locked); err != nil && !(len(f.relay) > 0 && errors.Is(err, apiclient.ErrNotLocked)) {
		return err
	}
	var to *relay
	if len(f.relay) > 0 {
		c, err := apiclient.Dial(ctx, path)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := bounded(ctx, func(ctx context.Context) error { to, err = a.askRelay(ctx, c, f.relay); return err }); err != nil {
			return err
		}
	}
	in, err := a.secretLines(f.file, "operator key or share")
	if err != nil {
		return failf(ExitLocked, "%w; nothing was changed", err)
	}
	defer in.Close()
	text, err := in.next()
	if err == nil && text == "" {
		err = errNothingGiven
	}
	if err != nil { // still locked, whatever it was
		return failf(ExitLocked, "%w; nothing was changed", err)
	}
	start := time.Now()
	if isShare(text) {
		open, err := a.giveShares(ctx, keyd, in, text, to)
		if err != nil || !open {
			return err
		}
		return a.waitActive(ctx, path, start, f.wait)
	}
	if to != nil {
		return failf(ExitUsage, "only shares are relayed: an operator key is given on each machine")
	}
	return a.unlockByKey(ctx, keyd, in, text, path, start, f.wait)
}

func (a *app) unlockByKey(ctx context.Context, keyd *apiclient.Keyd, in *secretLines, text, path string, start time.Time, wait time.Duration) error {
	key, err := in.onlyKey(text)
	if err != nil {
		return failf(ExitLocked, "%w; nothing was changed", err)
	}
	defer key.Wipe()
	err = bounded(ctx, func(ctx context.Context) error { return keyd.Unlock(ctx, &key) })
	if errors.Is(err, apiclient.ErrWrongKey) || errors.Is(err, apiclient.ErrTooMany) {
		return failf(ExitLocked, "%w", err)
	}
	if err != nil {
		return err
	}
	return a.waitActive(ctx, path, start, wait)
}

// bounded runs f under the bound of one call.
func bounded(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return f(ctx)
}

// waitActive waits until the node has opened its store and says how long it
// took.
func (a *app) waitActive(ctx context.Context, path string, start time.Time, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	c, err := apiclient.Dial(ctx, path)
	if err != nil {
		return err
	}
	defer c.Close()
	tick := time.NewTicker(statusPoll)
	defer tick.Stop()
	message := "no answer yet"
	for {
		st, err := c.LocalStatus(ctx, &controlpb.LocalStatusRequest{})
		// With its session the others know that it is back, too.
		if err == nil && st.Phase == controlpb.NodePhase_NODE_PHASE_ACTIVE && (st.Session || time.Since(start) > quorumPatience) {
			fmt.Fprintf(a.Stdout, "Unlocked; active after %.1f s.\n", time.Since(start).Seconds())
			return nil
		}
		if err == nil && st.Phase == controlpb.NodePhase_NODE_PHASE_NO_QUORUM && time.Since(start) > quorumPatience {
			fmt.Fprintf(a.Stdout, "Unlocked; %s.\n", printable(st.Message))
			return nil
		}
		if err == nil {
			message = enumName(st.Phase, "NODE_PHASE_") + " " + st.Message
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return failf(ExitNotConverged, "the key was right, but the node is not active after %s (%s): see `redoubt status`", wait, printable(message))
		}
	}
}
