package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/autolock/backup"
	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

func (a *app) backupRestoreCmd() *cobra.Command {
	var key, cluster, advertise string
	c := &cobra.Command{
		Use:   "restore FILE [--key-file FILE] [--cluster ID]",
		Short: "Make this empty machine the first manager of the cluster in a backup",
		Long: `restore begins a new incarnation of the cluster in FILE, on a machine that is in
no cluster, with the operator key of the day the backup was made, or with enough
shares of that day, one a line. All join tokens are void, all nodes of before are
refused for ever: have each leave (redoubt leave --force) and join anew. Services
start as nodes join.

A cluster that still runs cannot be seen from here. Restore only one that is
lost: two of one name will not talk to each other, and both will run.`,
		Example: `  redoubt backup restore /backup/monday.rdtb --key-file /media/usb/redoubt.key`,
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, got []string) error {
			return a.runRestore(c.Context(), got[0], key, cluster, advertise)
		},
	}
	c.Flags().StringVar(&key, "key-file", "", `file with the operator key or shares ("-": stdin, the default)`)
	c.Flags().StringVar(&cluster, "cluster", "", "refuse a backup of any other cluster than this `id`")
	c.Flags().StringVar(&advertise, "advertise", "", "address other nodes reach this one at (default: from the configuration)")
	return c
}

func (a *app) runRestore(ctx context.Context, path, keyFile, cluster, advertise string) error {
	advertise, err := withPort(advertise)
	if err != nil {
		return usagef("--advertise: %v", err)
	}
	r, err := verifyFile(path)
	if err != nil {
		return err
	}
	if id := r.Head.Facts.GetClusterId(); cluster != "" && cluster != id {
		return apierr.Invalid("use a backup of that cluster", "%s is a backup of cluster %s, not of %s", path, id, cluster)
	}
	ctx, c, done, err := a.reach(ctx, backupTimeout)
	if err != nil {
		return err
	}
	defer done()
	// That this node has a cluster is said before a key is asked for.
	st, err := c.LocalStatus(ctx, &controlpb.LocalStatusRequest{})
	if err != nil {
		return apiclient.Err(err)
	}
	if st.Phase != controlpb.NodePhase_NODE_PHASE_EMPTY && st.Phase != controlpb.NodePhase_NODE_PHASE_REMOVED {
		return apierr.InCluster(st.ClusterId)
	}
	with, err := a.readCredential(keyFile)
	if err != nil {
		return err
	}
	defer with.Wipe()
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if r, err = backup.NewReader(f); err != nil {
		return badBackup(path, err)
	}
	if err := a.withKeyd(ctx, func(ctx context.Context, k *apiclient.Keyd) error {
		_, err := k.OpenBackup(ctx, with, r.Raw, true)
		return wrongDay(err)
	}); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	resp, err := sendBackup(ctx, c, f, advertise)
	if err != nil {
		return apiclient.Err(err)
	}
	fmt.Fprintf(a.Stdout, `Cluster %s restored as incarnation %d; this node (%s) is its only manager.

Every node of before is refused: on each, run

    redoubt leave --force

and let it join with a new token (redoubt join-token worker, redoubt join-token manager).
`, resp.ClusterId, resp.Incarnation, shortID(resp.NodeId))
	return nil
}

// sendBackup streams the file to the node.
func sendBackup(ctx context.Context, c *api, f io.Reader, advertise string) (*controlpb.RestoreResponse, error) {
	stream, err := c.Restore(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&controlpb.RestoreRequest{Advertise: advertise}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	buf := make([]byte, backupPiece)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			if stream.Send(&controlpb.RestoreRequest{Data: buf[:n]}) != nil {
				break // the answer says why
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	return stream.CloseAndRecv()
}

func (a *app) recoverCmd() *cobra.Command {
	var key string
	var force bool
	c := &cobra.Command{
		Use:   "recover --force-new-cluster [--key-file FILE]",
		Short: "Go on with this manager alone, when the others are lost for good",
		Long: `recover begins a new incarnation of the cluster with the state of this manager,
when so many others are lost for good that there is no quorum. It needs an
operator key, or enough shares, one a line: a manager that opened by itself or was
unlocked before has not had them. All join tokens are void; the other managers are
refused for ever, and have to leave and join anew when they are found after all.
Workers and services go on.

The others cannot be seen from here. Were they only cut off, they will go on as
a cluster of their own until they meet this one. Run it on one manager only: the
one with the newest state, if several are left.`,
		Example: `  redoubt recover --force-new-cluster`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if !force {
				return usagef("recover gives up all other managers for good: say so with --force-new-cluster, after `redoubt recover --help`")
			}
			return a.runRecover(c.Context(), key)
		},
	}
	c.Flags().StringVar(&key, "key-file", "", `file with the operator key or shares ("-": stdin, the default)`)
	c.Flags().BoolVar(&force, "force-new-cluster", false, "give up all other managers for good")
	return c
}

func (a *app) runRecover(ctx context.Context, keyFile string) error {
	ctx, c, done, err := a.reach(ctx, recoverTimeout)
	if err != nil {
		return err
	}
	defer done()
	st, err := c.LocalStatus(ctx, &controlpb.LocalStatusRequest{})
	if err != nil {
		return apiclient.Err(err)
	}
	if st.Role == profilepb.Role_ROLE_WORKER {
		return apierr.NotManager()
	}
	switch st.Phase {
	case controlpb.NodePhase_NODE_PHASE_EMPTY:
		return apierr.NoCluster()
	case controlpb.NodePhase_NODE_PHASE_LOCKED, controlpb.NodePhase_NODE_PHASE_NO_QUORUM, controlpb.NodePhase_NODE_PHASE_STARTING:
	case controlpb.NodePhase_NODE_PHASE_ACTIVE:
		// A manager that lost its leader says so when it is asked to recover.
	default:
		return apierr.State("see `redoubt status`", "this node is %s", enumName(st.Phase, "NODE_PHASE_"))
	}
	with, err := a.readCredential(keyFile)
	if err != nil {
		return err
	}
	defer with.Wipe()
	if err := a.withKeyd(ctx, func(ctx context.Context, k *apiclient.Keyd) error { return k.AuthorizeRecovery(ctx, with) }); err != nil {
		return err
	}
	if err := waitOpened(ctx, c); err != nil {
		return err
	}
	resp, err := c.Recover(ctx, &controlpb.RecoverRequest{})
	if err != nil {
		return apiclient.Err(err)
	}
	fmt.Fprintf(a.Stdout, "Recovered: incarnation %d of the cluster has this node as its only manager.\nAdd two: `redoubt join-token manager`. A manager of before that is found must `redoubt leave --force` first.\n", resp.Incarnation)
	return nil
}

// waitOpened waits until the store is open, and gives the others the time to
// elect a leader if they can.
func waitOpened(ctx context.Context, c *api) error {
	tick := time.NewTicker(statusPoll)
	defer tick.Stop()
	var since time.Time
	for {
		st, err := c.LocalStatus(ctx, &controlpb.LocalStatusRequest{})
		switch {
		case err != nil:
			since = time.Time{}
		case st.Phase == controlpb.NodePhase_NODE_PHASE_BROKEN:
			return apierr.State("see `redoubt status`", "this node cannot start: %s", st.Message)
		case st.Phase != controlpb.NodePhase_NODE_PHASE_NO_QUORUM && st.Phase != controlpb.NodePhase_NODE_PHASE_ACTIVE:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		case st.Phase == controlpb.NodePhase_NODE_PHASE_ACTIVE && st.LeaderAddress != "", time.Since(since) > leaderPatience:
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return failf(ExitNotConverged, "the key or shares were right, but the store did not open in time: see `redoubt status`")
		}
	}
}
