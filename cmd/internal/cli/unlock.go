package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

func (a *app) unlockCmd() *cobra.Command {
	var (
		file string
		wait time.Duration
	)
	c := &cobra.Command{
		Use:   "unlock [--key-file FILE]",
		Short: "Open this manager's store after a restart",
		Long: `unlock gives the operator key to this machine's keyd, over its own socket: no
other process sees it. The key is asked for without echo, or read from stdin
or --key-file. A wrong key changes nothing.`,
		Example: `  redoubt unlock

  redoubt unlock --key-file /media/usb/redoubt.key`,
		Args: func(c *cobra.Command, got []string) error {
			for _, s := range got {
				if strings.HasPrefix(strings.ToUpper(s), "RDTKEY") {
					return usagef("the key is not taken from the command line, where every user of this machine can read it: give it on stdin or by --key-file FILE, and replace that one soon (`redoubt unlock-key rotate`)")
				}
			}
			return args(0, 0)(c, got)
		},
		RunE: func(c *cobra.Command, _ []string) error { return a.runUnlock(c.Context(), file, wait) },
	}
	c.Flags().StringVar(&file, "key-file", "", `file with the operator key ("-": stdin, the default)`)
	c.Flags().DurationVar(&wait, "timeout", unlockWait, "how long to wait for the node to be active")
	return c
}

func (a *app) runUnlock(ctx context.Context, file string, wait time.Duration) error {
	path, err := a.socketPath()
	if err != nil {
		return err
	}
	keyd := apiclient.NewKeyd(filepath.Join(filepath.Dir(path), apiclient.UnlockSocket))
	defer keyd.Close()
	// That there is nothing to unlock is said before a key is asked for.
	if err := bounded(ctx, keyd.Locked); err != nil {
		return err
	}
	text, err := a.readSecret(file, "operator key")
	if err != nil { // still locked, whatever it was
		return failf(ExitLocked, "%w; nothing was changed", err)
	}
	key, err := autolock.ParseOperatorKey(text)
	if err != nil {
		return failf(ExitLocked, "%w; nothing was changed", err)
	}
	defer key.Wipe()
	start := time.Now()
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
