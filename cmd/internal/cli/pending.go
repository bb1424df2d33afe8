package cli

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

func (a *app) nodePendingCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "pending", Short: "List machines that wait to be approved",
		Long: `pending lists machines that would be managers, have a good token and proved what
they must, and wait. Compare the fingerprint with the one that redoubt join shows
on the machine, then approve or deny it.`,
		Example: `  redoubt node pending`, Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListPending(ctx, &controlpb.ListPendingRequest{})
				if err != nil {
					return err
				}
				var ids []string
				var rows [][]string
				objects := protoJSON(r)
				for _, n := range r.Nodes {
					ids = append(ids, n.Id)
					tpm := "none"
					if len(n.TpmEk) > 0 {
						tpm = hex.EncodeToString(n.TpmEk)
					}
					rows = append(rows, []string{shortID(n.Id), n.Name, enumName(n.Role, "ROLE_"), n.Source, n.Fingerprint, tpm})
				}
				return out.list(a.Stdout, ids, objects, []string{"ID", "HOSTNAME", "ROLE", "FROM", "FINGERPRINT", "TPM"}, rows)
			})
		},
	}
	out.flags(c, true)
	return c
}

func (a *app) nodeDecideCmd(approve bool) *cobra.Command {
	use, short, long := "deny FINGERPRINT", "Refuse a machine that waits, and revoke its token", `deny refuses a machine that waits to be a manager. The token that it has is revoked.`
	if approve {
		use, short, long = "approve FINGERPRINT", "Let a machine in that waits", `approve lets a machine in that waits to be a manager: it gets the cluster's keys.
Compare the fingerprint with what redoubt join shows on that machine. An id that
redoubt node pending shows does as well.`
	}
	verb, _, _ := strings.Cut(use, " ")
	return &cobra.Command{
		Use: use, Short: short, Long: long, Example: "  redoubt node " + verb + " K3QF-7ZPA-2WLM-XA5D", Args: args(1, 1),
		RunE: func(c *cobra.Command, got []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.DecidePending(ctx, &controlpb.DecidePendingRequest{Node: got[0], Approve: approve})
				if err != nil {
					return err
				}
				said := map[bool]string{true: "is let in when it asks next, in a few seconds", false: "is refused, and its token revoked"}[approve]
				_, err = fmt.Fprintf(a.Stdout, "%s (%s) %s.\n", nodeLabel(r.Node.GetName(), r.Node.GetId()), printable(r.Node.GetSource()), said)
				return err
			})
		},
	}
}

const (
	// approvalLook is how often a join looks whether an operator is waited for, and
	// approvalTimeout how long it waits for one.
	approvalLook    = time.Second
	approvalTimeout = 30 * time.Minute
)

// awaitApproval runs a join for at most joinTimeout, but for approvalTimeout where it
// waits for an operator; then it shows the fingerprint to compare, once.
func (a *app) awaitApproval(ctx context.Context, c *api, join func(context.Context) (*controlpb.JoinResponse, error)) (*controlpb.JoinResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, approvalTimeout)
	defer cancel()
	var late atomic.Bool
	bound := time.AfterFunc(joinTimeout, func() { late.Store(true); cancel() })
	defer bound.Stop()
	type result struct {
		resp *controlpb.JoinResponse
		err  error
	}
	done := make(chan result, 1)
	go func() {
		resp, err := join(ctx)
		done <- result{resp, err}
	}()
	look := time.NewTicker(approvalLook)
	defer look.Stop()
	for told := false; ; {
		select {
		case r := <-done:
			if r.err != nil && late.Load() {
				r.err = context.DeadlineExceeded
			}
			return r.resp, apiclient.Err(r.err)
		case <-look.C:
		}
		if told {
			continue
		}
		st, err := c.LocalStatus(ctx, &controlpb.LocalStatusRequest{})
		if err == nil && st.Approval != "" && bound.Stop() {
			told = true
			fmt.Fprintf(a.Stderr, "redoubt: waiting for an operator; on a manager: redoubt node approve %s\n", printable(st.Approval))
		}
	}
}
