package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

func (a *app) joinCmd() *cobra.Command {
	var (
		file, advertise string
		fd              int
	)
	c := &cobra.Command{
		Use:   "join [--token-file FILE] [--advertise HOST[:PORT]] MANAGER...",
		Short: "Make this machine a member of a cluster",
		Long: `join makes this machine a worker or a manager, whichever the token is for. The
token is read from stdin, from --token-file or from --token-fd, never from the
command line. The managers are tried in order; port 2377 is assumed.

The token pins the cluster's root certificate: a machine that is not a manager
of that very cluster gets nothing from this one.

Where the token or the cluster asks for it, the machine proves its TPM (keyd.tpm
in config.yaml), and a new manager waits for an operator: the fingerprint to be
compared is shown then.`,
		Example: `  # Asks for the token
  redoubt join 192.0.2.10

  redoubt join --token-file /root/token 192.0.2.10 192.0.2.11

  redoubt join 192.0.2.10 <<'EOF'
  RDT1.…
  EOF`,
		Args: func(c *cobra.Command, got []string) error {
			for _, s := range got {
				if strings.HasPrefix(strings.ToUpper(s), "RDT1.") {
					return usagef("a token is not taken from the command line, where every user of this machine can read it: revoke that one (`redoubt join-token revoke`), and give the next on stdin or by --token-file FILE")
				}
			}
			return args(1, -1)(c, got)
		},
		RunE: func(c *cobra.Command, managers []string) error {
			if c.Flags().Changed("token-fd") && file != "" {
				return usagef("--token-fd and --token-file exclude each other")
			}
			return a.runJoin(c.Context(), managers, advertise, func() (string, error) {
				if c.Flags().Changed("token-fd") {
					return readSecretFD(fd, "join token")
				}
				return a.readSecret(file, "join token")
			})
		},
	}
	c.Flags().StringVar(&file, "token-file", "", `file with the token ("-": stdin, the default)`)
	c.Flags().IntVar(&fd, "token-fd", 0, "file descriptor to read the token from")
	c.Flags().StringVar(&advertise, "advertise", "", "managers: address other nodes reach this one at")
	alias(c.Flags(), "advertise-addr", "advertise")
	return c
}

func (a *app) runJoin(ctx context.Context, managers []string, advertise string, read func() (string, error)) error {
	var err error
	for i := range managers {
		if managers[i], err = withPort(managers[i]); err != nil {
			return usagef("manager address: %v", err)
		}
	}
	if advertise, err = withPort(advertise); err != nil {
		return usagef("--advertise: %v", err)
	}
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	// A member is told so before it is asked for a token.
	st, err := c.LocalStatus(ctx, &controlpb.LocalStatusRequest{})
	if err != nil {
		return apiclient.Err(err)
	}
	if st.ClusterId != "" {
		return apierr.InCluster(st.ClusterId)
	}
	token, err := read()
	if err != nil {
		return err
	}
	parsed, err := pki.ParseToken(token)
	if err != nil { // before any manager is dialled
		return fmt.Errorf("the join token is not usable: %w", err)
	}
	if head := parsed.Lock(); len(head) > 0 { // before a manager can have anything run
		if _, err := a.rundLock(ctx, &rundpb.LockRequest{Change: &rundpb.LockRequest_Pin{Pin: head}}); err != nil {
			return fmt.Errorf("this node does not take the deployment lock that the token names: %w", err)
		}
	}
	defer a.noticeAfter(joinNotice, "not admitted yet: a busy or starting manager is asked again (Ctrl-C ends it)")()
	r, err := a.awaitApproval(ctx, c, func(ctx context.Context) (*controlpb.JoinResponse, error) {
		return c.Join(ctx, &controlpb.JoinRequest{Token: token, Managers: managers, Advertise: advertise})
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(a.Stdout, "This node (%s) joined cluster %s as a %s.\n", r.NodeId, r.ClusterId, enumName(r.Role, "ROLE_"))
	return nil
}

func (a *app) leaveCmd() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "leave [--force]",
		Short: "Take this machine out of its cluster and wipe what it kept of it",
		Long: `leave makes this machine a member of nothing and wipes its keys. On a worker its
record stays on the managers, down, until ` + "`redoubt node rm`" + ` removes it there.

A manager leaves with --force only. Its copy of the cluster is gone for good;
when it was the only one, the cluster is. The other managers go on counting it:
of three, both others must then stay up.`,
		Example: `  redoubt leave

  # A manager, also the last one: there is no way back
  redoubt leave --force`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error { return a.runLeave(ctx, api, force) })
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "leave though this is a manager, even the last")
	return c
}

func (a *app) runLeave(ctx context.Context, c *api, force bool) error {
	st, err := c.LocalStatus(ctx, &controlpb.LocalStatusRequest{})
	if err != nil {
		return err
	}
	manager := st.Role == profilepb.Role_ROLE_MANAGER
	if manager && !force {
		costs, remedy := leaveCosts(ctx, c)
		return apierr.State(remedy+"add --force if that is meant, there is no way back", "%s", costs)
	}
	if _, err := c.Leave(ctx, &controlpb.LeaveRequest{Force: force}); err != nil {
		return err
	}
	fmt.Fprintln(a.Stdout, "This node left its cluster.")
	if !manager && st.NodeId != "" {
		fmt.Fprintf(a.Stderr, "Its record stays on the managers: `redoubt node rm %s` there removes it.\n", shortID(st.NodeId))
	}
	return nil
}

// leaveCosts says what the cluster loses with this manager, as far as it can
// be known (a locked manager cannot say), and the way that costs less.
func leaveCosts(ctx context.Context, c *api) (costs, remedy string) {
	const gone = "a manager that leaves gives up its copy of the cluster for good"
	r, err := c.GetStatus(ctx, &controlpb.GetStatusRequest{})
	if err != nil {
		return gone, ""
	}
	voters := 0
	for _, m := range r.Managers {
		if m.Voter {
			voters++
		}
	}
	const orderly = "`redoubt node rm --force` of it on another manager takes it out without that; "
	switch voters {
	case 0:
		return gone, ""
	case 1:
		return "this is the only manager: when it leaves, the cluster and all its services are lost", "keep a backup (`redoubt backup create`); "
	case 2:
		return "this is one of two managers: when it leaves, the other can decide nothing any more and the cluster is lost", orderly
	}
	return fmt.Sprintf("%s, and the others go on counting it: of %d, %d must then stay up", gone, voters-1, voters/2+1), orderly
}

// withPort completes host[:port]; empty stays empty.
func withPort(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	return pki.CompleteAddress(s)
}
