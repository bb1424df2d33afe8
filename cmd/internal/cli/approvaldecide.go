package cli

import (
	"bufio"
	"context"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/redoubt-cluster/redoubt/cmd/internal/approvable"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/authz"
)

func (a *app) approvalGrantCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "grant ID [SHA-256]", Short: "Be for a request of somebody else",
		Long: `grant is for the request that has that SHA-256, as redoubt approval show prints it,
and for no other. Without it grant shows the request and asks, at a terminal.
Whoever grants must be permitted to do it, and not be who asked for it; each
counts once. A grant is not taken back.`,
		Example: `  redoubt approval show k3qf7zpa
  redoubt approval grant k3qf7zpa 7b4c…e1

  # Shows it, and asks
  redoubt approval grant k3qf7zpa`,
		Args: args(1, 2),
		RunE: func(c *cobra.Command, got []string) error {
			if len(got) == 1 {
				return a.askAndGrant(c.Context(), got[0])
			}
			sum, err := hex.DecodeString(got[1])
			if err != nil || len(sum) != len(approvable.Hash("", nil)) {
				return usagef("the SHA-256 is 64 hexadecimal digits, as `redoubt approval show` prints them")
			}
			return a.decideApproval(c.Context(), got[0], sum)
		},
	}
	c.ValidArgsFunction = a.names(1, approvalIDs)
	return c
}

func (a *app) approvalDenyCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "deny ID", Short: "End a request, whoever else is for it",
		Long: `deny ends a request: nothing comes of it any more. Who asked for it withdraws it
so; for others it is as with a grant: they must be permitted to do it.`,
		Example: `  redoubt approval deny k3qf7zpa`,
		Args:    args(1, 1),
		RunE:    func(c *cobra.Command, got []string) error { return a.decideApproval(c.Context(), got[0], nil) },
	}
	c.ValidArgsFunction = a.names(1, approvalIDs)
	return c
}

// readApproval is an approval with what its request says, read here: what the answer says
// of that beside the request is left aside, as it came through others.
func readApproval(ref string, r *controlpb.GetApprovalResponse) (*controlpb.ApprovalView, error) {
	v := r.GetApproval()
	if !strings.HasPrefix(v.GetId(), ref) || ref == "" {
		return nil, failf(ExitError, "the answer is about another approval than %q", printable(ref))
	}
	v.Hash, v.Fields, v.Verbs = approvable.Hash(v.GetMethod(), r.GetRequest()), nil, nil
	request, err := approvable.Decode(v.GetMethod(), r.GetRequest())
	if err != nil {
		return nil, failf(ExitError, "what approval %s is for cannot be read by this redoubt, use one of the managers' version: %s", printable(v.GetId()), printable(err.Error()))
	}
	acts, err := authz.ActsOf(v.GetMethod(), request)
	if err != nil {
		return nil, failf(ExitError, "approval %s is for what nobody may do: %s", printable(v.GetId()), printable(err.Error()))
	}
	for _, act := range acts {
		v.Verbs = append(v.Verbs, act.Verb)
	}
	for _, f := range approvable.Fields(request) {
		v.Fields = append(v.Fields, &controlpb.ApprovalField{Path: f.GetPath(), Value: f.GetNew()})
	}
	return v, nil
}

// askAndGrant shows a request, and grants that one where it is said so at a terminal.
func (a *app) askAndGrant(ctx context.Context, ref string) error {
	if in, ok := a.Stdin.(*os.File); !ok || !term.IsTerminal(int(in.Fd())) {
		return usagef("say which request it is that you looked at: `redoubt approval grant %s SHA-256`, as `redoubt approval show %s` prints it", printable(ref), printable(ref))
	}
	var v *controlpb.ApprovalView
	if err := a.with(ctx, func(ctx context.Context, api *api) error {
		r, err := api.GetApproval(ctx, &controlpb.GetApprovalRequest{Approval: ref})
		if err == nil {
			v, err = readApproval(ref, r)
		}
		return err
	}); err != nil {
		return err
	}
	showApproval(a.Stdout, v)
	fmt.Fprint(a.Stderr, "Approve this? [y/N] ")
	if !saysYes(a.Stdin) {
		return failf(ExitError, "approval %s was not granted", printable(v.GetId()))
	}
	return a.decideApproval(ctx, v.GetId(), v.GetHash())
}

// saysYes reads one line.
func saysYes(in io.Reader) bool {
	line, err := bufio.NewReader(io.LimitReader(in, 16)).ReadString('\n')
	line = strings.ToLower(strings.TrimSpace(line))
	return err == nil && (line == "y" || line == "yes")
}

// decideApproval grants the request of that hash; without one it denies.
func (a *app) decideApproval(ctx context.Context, ref string, hash []byte) error {
	return a.with(ctx, func(ctx context.Context, api *api) error {
		r, err := api.GetApproval(ctx, &controlpb.GetApprovalRequest{Approval: ref})
		if err != nil {
			return err
		}
		v, err := readApproval(ref, r)
		switch {
		case hash == nil && err != nil:
			v = r.GetApproval() // it is ended all the same, unread
		case err != nil:
			return err
		case hash != nil && subtle.ConstantTimeCompare(hash, v.GetHash()) != 1:
			return failf(ExitError, "approval %s is not for the request of that SHA-256: look at it again with `redoubt approval show %s`", printable(v.GetId()), printable(ref))
		}
		d, err := api.DecideApproval(ctx, &controlpb.DecideApprovalRequest{Approval: v.GetId(), Grant: hash != nil, Hash: hash})
		if err != nil {
			return err
		}
		v.State, v.Progress, v.Votes = d.GetApproval().GetState(), d.GetApproval().GetProgress(), d.GetApproval().GetVotes()
		showApproval(a.Stdout, v)
		return nil
	})
}
