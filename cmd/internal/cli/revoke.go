package cli

import (
	"context"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

func (a *app) nodeRevokeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "revoke NODE", Short: "Cut a node off now, whether it is up or not",
		Long: `revoke takes a node for one that is in other hands: from the moment the command
returns every manager refuses it, its connections are cut, its peers drop their
tunnels to it and make new keys among themselves, its tasks are made anew
elsewhere, and its certificates stand on the revocation list. A manager's keys are
replaced as by node rm --compromised.

The node stays listed, as revoked, until it is removed by redoubt node rm. It
comes back only as a new node, with a new join token. Where the command was
interrupted, run it again: it tells what is still on record of what the node knew.`,
		Example: `  redoubt node revoke worker-3
  redoubt node rm worker-3`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.leave(c.Context(), func(ctx context.Context, api *api, slot *keydpb.Slot, check bool) (leaveResult, error) {
				r, err := api.RevokeNode(ctx, &controlpb.RevokeNodeRequest{Node: names[0], Slot: slot, Check: check})
				return leaveResult{r.GetId(), r.GetManager(), r.GetNoSlot(), r.GetRotation(), r.GetServices(), r.GetKnown(), true, r.GetAlready(), r.GetUnlisted()}, err
			})
		},
	}
}

// identityVerbs are the commands about workload identities: what there is of them,
// and taking trust away and giving it back.
func (a *app) identityVerbs() []*cobra.Command {
	return []*cobra.Command{a.identityLsCmd(), a.identityRevokeCmd(), a.identityAllowCmd(), a.identityDeniedCmd()}
}

func (a *app) identityRevokeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "revoke SPIFFE-ID|SERVICE...", Short: "Take a workload identity back",
		Long: `revoke has nodes take back at once what tasks have of that identity: the streams of
the Workload API end with a refusal, and nothing is issued for it until redoubt
identity allow. Tasks go on running. What a task copied out of the API stays good
to others until it ends, an hour after it was issued as a rule: the tasks that may
have such are named. redoubt service scale SERVICE=0 stops them; on a network that
denies by default redoubt policy rm ends what is open.`,
		Example: `  redoubt identity revoke web
  redoubt identity revoke spiffe://CLUSTER/svc/default/web`,
		Args: args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			var tasks []string
			err := a.each(c.Context(), names, func(ctx context.Context, api *api, n string) (string, error) {
				r, err := api.RevokeIdentity(ctx, &controlpb.RevokeIdentityRequest{Identity: n})
				tasks = append(tasks, r.GetTasks()...)
				return r.GetIdentity().GetId(), err
			})
			if n := len(tasks); n > 0 {
				text := printable(strings.Join(tasks[:min(n, maxNamed)], ", "))
				if n > maxNamed {
					text += fmt.Sprintf(" and %d more (`redoubt identity ls`)", n-maxNamed)
				}
				fmt.Fprintf(a.Stdout, "These tasks go on running, and what they copied of it is good until it ends, to who reads no revocation list: %s. `redoubt service scale SERVICE=0` stops them.\n", text)
			}
			return err
		},
	}
}

func (a *app) identityAllowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "allow SPIFFE-ID|SERVICE...", Short: "Issue a revoked identity again; what was issued before stays revoked",
		Example: `  redoubt identity allow web`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.each(c.Context(), names, func(ctx context.Context, api *api, n string) (string, error) {
				r, err := api.AllowIdentity(ctx, &controlpb.AllowIdentityRequest{Identity: n})
				return r.GetIdentity().GetId(), err
			})
		},
	}
}

// deniedJSON is one identity in `identity denied --format json`.
type deniedJSON struct {
	ID       string     `json:"id"`
	State    string     `json:"state"`
	DeniedAt time.Time  `json:"denied_at"`
	Allowed  *time.Time `json:"allowed_at,omitempty"`
}

func (a *app) identityDeniedCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "denied", Short: "List workload identities that are revoked, or were within a day",
		Example: `  redoubt identity denied`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListDenied(ctx, &controlpb.ListDeniedRequest{})
				if err != nil {
					return err
				}
				var ids []string
				objects := []deniedJSON{}
				var rows [][]string
				for _, v := range r.GetIdentities() {
					d := deniedJSON{ID: v.GetId(), State: "revoked", DeniedAt: time.Unix(v.GetDeniedAt(), 0).UTC()}
					if at := v.GetAllowedAt(); at != 0 {
						t := time.Unix(at, 0).UTC()
						d.State, d.Allowed = "allowed", &t
					}
					ids, objects = append(ids, d.ID), append(objects, d)
					allowed := ""
					if d.Allowed != nil {
						allowed = d.Allowed.Format(time.RFC3339)
					}
					rows = append(rows, []string{d.ID, d.State, d.DeniedAt.Format(time.RFC3339), allowed})
				}
				return out.list(a.Stdout, ids, objects, []string{"IDENTITY", "STATE", "REVOKED", "ALLOWED"}, rows)
			})
		},
	}
	out.flags(c, true)
	return c
}

// kindOf is which CA a list is of, as the command line has it.
func kindOf(l *controlpb.CRL) string {
	switch {
	case l.GetWorkload():
		return "workload"
	case l.GetRoot():
		return "root"
	}
	return "issuing"
}

func (a *app) caCrlCmd() *cobra.Command {
	var format, issuer string
	c := &cobra.Command{
		Use: "crl [--format pem|der] [--issuer issuing|workload|root]", Short: "Print the certificate revocation lists, for programs outside of the cluster",
		Long: `crl prints the revocation lists as they are at this moment: the issuing CA's names
the certificates of nodes that were removed or revoked, the workload CA's those of
identities that were revoked and of such nodes' tasks, the root's the CAs whose keys
a manager took along, and those that were replaced and are of no use to any node
any more, or issued to one that was removed. A list is good for three days and is signed again
whenever something is revoked, and every day: fetch it at least daily. The cluster
itself does not wait for any list.`,
		Example: `  redoubt ca crl > /srv/www/redoubt.crl.pem
  redoubt ca crl --issuer issuing --format der > issuing.crl
  openssl verify -crl_check_all -CAfile root.pem -CRLfile redoubt.crl.pem -untrusted issuing.pem leaf.pem`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case format != "pem" && format != "der":
				return usagef("--format %q: use pem or der", format)
			case issuer != "" && issuer != "issuing" && issuer != "workload" && issuer != "root":
				return usagef("--issuer %q: use issuing, workload or root", issuer)
			case format == "der" && issuer == "":
				return usagef("--format der has room for one list: add --issuer issuing, --issuer workload or --issuer root")
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.GetCRLs(ctx, &controlpb.GetCRLsRequest{})
				if err != nil {
					return err
				}
				lists := r.GetCrls()
				printed := 0
				for _, l := range lists {
					if issuer != "" && kindOf(l) != issuer || format == "der" && l.GetFormer() {
						continue
					}
					if format == "der" && printed > 0 {
						return usagef("the cluster has several CAs of that kind now, as one is being replaced: use --format pem")
					}
					printed++
					if format == "der" {
						_, err = a.Stdout.Write(l.GetCrl())
					} else {
						err = pem.Encode(a.Stdout, &pem.Block{Type: "X509 CRL", Bytes: l.GetCrl()})
					}
					if err != nil {
						return fmt.Errorf("write the list: %w", err)
					}
				}
				return nil
			})
		},
	}
	c.Flags().StringVar(&format, "format", "pem", "pem: all lists one after the other; der: one")
	fixed(c, "format", "pem", "der")
	c.Flags().StringVar(&issuer, "issuer", "", "only the lists of the issuing CA, of the workload CA, or of the root (default all)")
	return c
}
