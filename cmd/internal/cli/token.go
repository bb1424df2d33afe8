package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

func (a *app) joinTokenCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "join-token",
		Short: "Make, list and revoke join tokens",
		Long: `A join token admits machines to the cluster: one role, a short life, a number of
uses. Its secret is made here and shown once; the cluster keeps only the
public half and cannot show it again.`,
	}
	group(c)
	c.AddCommand(a.tokenMakeCmd(profilepb.Role_ROLE_WORKER), a.tokenMakeCmd(profilepb.Role_ROLE_MANAGER), a.tokenLsCmd(), a.tokenRevokeCmd())
	return c
}

// tokenMake is what join-token worker and manager were asked for.
type tokenMake struct {
	ttl       time.Duration
	uses      uses
	name      string
	cidr      string
	attest    bool
	approve   bool
	longLived bool
	quiet     bool
	lockChain string
}

func (a *app) tokenMakeCmd(role profilepb.Role) *cobra.Command {
	name := enumName(role, "ROLE_")
	var m tokenMake
	c := &cobra.Command{
		Use:   name,
		Short: "Make a token that admits a " + name,
		Example: fmt.Sprintf(`  redoubt join-token %[1]s

  # Only the machine called db-3, only from that network, within an hour
  redoubt join-token %[1]s --node-name db-3 --cidr 192.0.2.0/24 --ttl 1h

  # The token alone, into a file only root can read
  (umask 077; redoubt join-token %[1]s -q > /root/token)`, name),
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error { return a.runTokenMake(c.Context(), role, m) },
	}
	f := c.Flags()
	f.DurationVar(&m.ttl, "ttl", 0, "how long it is good for (default 10m)")
	f.Var(&m.uses, "uses", "how many machines it admits (default 1)")
	f.StringVar(&m.name, "node-name", "", "admit only a machine that calls itself this")
	f.StringVar(&m.cidr, "cidr", "", "admit only from this network")
	f.BoolVarP(&m.quiet, "quiet", "q", false, "print the token only")
	f.StringVar(&m.lockChain, "lock-chain", "", "`file` of the deployment lock's chain: who joins runs only what is signed by its keys")
	f.BoolVar(&m.attest, "attest", false, "admit only a machine that proves its TPM (see redoubt admission)")
	if role == profilepb.Role_ROLE_MANAGER {
		f.BoolVar(&m.approve, "approve", false, "admit only a machine that redoubt node approve lets in")
	}
	if role == profilepb.Role_ROLE_WORKER {
		f.BoolVar(&m.longLived, "long-lived", false, "no expiry, any number of uses; it is reported as a weakness")
	}
	return c
}

func (m *tokenMake) check() error {
	switch {
	case m.ttl < 0 || m.ttl%time.Second != 0:
		return usagef("--ttl %s: give a positive number of whole seconds, as 10m or 1h", m.ttl)
	case m.longLived && (m.ttl != 0 || m.uses != 0):
		return usagef("--long-lived excludes --ttl and --uses")
	}
	if m.name != "" {
		if err := ident.CheckHostname(m.name); err != nil {
			return usagef("--node-name: %v", err)
		}
	}
	if m.cidr != "" {
		p, err := netip.ParsePrefix(m.cidr)
		if err != nil || p != p.Masked() {
			return usagef("--cidr %q: give a network as 192.0.2.0/24, with the host bits zero", m.cidr)
		}
	}
	return nil
}

// lockHead is what the token says of the deployment lock: the file's word, and no
// manager's.
func (m *tokenMake) lockHead() (head []byte, cluster string, err error) {
	if m.lockChain == "" {
		return nil, "", nil
	}
	c, err := readChain(m.lockChain)
	switch {
	case err != nil:
		return nil, "", err
	case c.Missing() > 0:
		return nil, "", errors.New("the chain lacks signatures: no node takes it")
	case c.Head().GetEnds():
		return nil, "", errors.New("the chain ends the deployment lock: leave --lock-chain out")
	}
	return c.HeadDigest(), c.Head().GetClusterId(), nil
}

func (a *app) runTokenMake(ctx context.Context, role profilepb.Role, m tokenMake) error {
	if err := m.check(); err != nil {
		return err
	}
	head, cluster, err := m.lockHead()
	if err != nil {
		return err
	}
	return a.with(ctx, func(ctx context.Context, c *api) error {
		token, resp, err := apiclient.CreateToken(ctx, c, &controlpb.CreateTokenRequest{
			Role: role, TtlSeconds: int64(m.ttl / time.Second), MaxUses: uint32(m.uses),
			NodeName: m.name, Cidr: m.cidr, LongLived: m.longLived, Attest: m.attest, Approve: m.approve,
		})
		if err != nil {
			return err
		}
		if len(head) > 0 {
			if token.ClusterID() != cluster {
				return fmt.Errorf("the chain is of another cluster than the token (revoke it: redoubt join-token revoke %s)", token.ID())
			}
			if token, err = token.WithLock(head); err != nil {
				return err
			}
		}
		if m.quiet {
			_, err := fmt.Fprintln(a.Stdout, token.Text())
			return err
		}
		return a.printToken(token.Text(), resp)
	})
}

// printToken shows the token and the whole join line, in a form that keeps it
// out of the argument list.
func (a *app) printToken(token string, r *controlpb.CreateTokenResponse) error {
	rec := r.GetToken().GetRecord()
	uses := plural(int(rec.GetMaxUses()), "machine")
	if rec.GetMaxUses() == 0 {
		uses = "any number of machines"
	}
	expires := "without expiry"
	if rec.GetExpiresAt() != 0 {
		expires = "until " + time.Unix(rec.GetExpiresAt(), 0).UTC().Format(time.RFC3339)
	}
	managers := strings.Join(r.Managers, " ")
	if managers == "" {
		managers = "MANAGER"
	}
	_, err := fmt.Fprintf(a.Stdout, `To add a %s, run there (good for %s, %s):

    redoubt join --token-file - %s <<'EOF'
    %s
    EOF

The token is shown this once; `+"`redoubt join-token revoke %s`"+` takes it back.
`, enumName(rec.GetRole(), "ROLE_"), uses, expires, managers, token, rec.GetId())
	return err
}

// tokenJSON is one token in --format json.
type tokenJSON struct {
	ID        string     `json:"id"`
	Role      string     `json:"role"`
	Uses      uint32     `json:"uses"`
	MaxUses   uint32     `json:"max_uses"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	NodeName  string     `json:"node_name,omitempty"`
	CIDR      string     `json:"cidr,omitempty"`
	Attest    bool       `json:"attest,omitempty"`
	Approve   bool       `json:"approve,omitempty"`
	State     string     `json:"state"`
}

func newTokenJSON(v *controlpb.TokenView, now time.Time) tokenJSON {
	rec := v.GetRecord()
	t := tokenJSON{
		ID: rec.GetId(), Role: enumName(rec.GetRole(), "ROLE_"), Uses: v.Uses, MaxUses: rec.GetMaxUses(),
		NodeName: rec.GetNodeName(), CIDR: rec.GetCidr(), Attest: rec.GetAttest(), Approve: rec.GetApprove(), State: "valid",
	}
	if e := rec.GetExpiresAt(); e != 0 {
		at := time.Unix(e, 0).UTC()
		t.ExpiresAt = &at
		if !at.After(now) {
			t.State = "expired"
		}
	}
	if t.MaxUses != 0 && t.Uses >= t.MaxUses {
		t.State = "used up"
	}
	if v.Revoked {
		t.State = "revoked"
	}
	return t
}

func (a *app) tokenLsCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List join tokens (never their secrets)",
		Example: `  redoubt join-token ls`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListTokens(ctx, &controlpb.ListTokensRequest{})
				if err != nil {
					return err
				}
				return a.printTokens(&out, r.Tokens, time.Now())
			})
		},
	}
	out.flags(c, true)
	return c
}

func (a *app) printTokens(out *output, views []*controlpb.TokenView, now time.Time) error {
	var ids []string
	objects := []tokenJSON{}
	var rows [][]string
	for _, v := range views {
		t := newTokenJSON(v, now)
		ids, objects = append(ids, t.ID), append(objects, t)
		uses := strconv.Itoa(int(t.Uses)) + "/∞"
		if t.MaxUses != 0 {
			uses = fmt.Sprintf("%d/%d", t.Uses, t.MaxUses)
		}
		expires := "never"
		if t.ExpiresAt != nil {
			expires = in(*t.ExpiresAt, now)
		}
		rows = append(rows, []string{t.ID, t.Role, uses, expires, t.State, t.NodeName, t.CIDR})
	}
	return out.list(a.Stdout, ids, objects, []string{"ID", "ROLE", "USES", "EXPIRES", "STATE", "NODE NAME", "CIDR"}, rows)
}

func (a *app) tokenRevokeCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "revoke ID...",
		Aliases: []string{"rm"},
		Short:   "Take join tokens back by their id",
		Example: `  redoubt join-token revoke $(redoubt join-token ls -q)`,
		Args: func(c *cobra.Command, got []string) error {
			for i, s := range got {
				// A whole token pasted here is taken for its id, which is its
				// second field; the rest is a secret and goes no further.
				if p := strings.SplitN(s, ".", 3); len(p) == 3 && strings.EqualFold(p[0], "RDT1") {
					got[i] = p[1]
				}
			}
			return args(1, -1)(c, got)
		},
		RunE: func(c *cobra.Command, ids []string) error {
			return a.each(c.Context(), ids, func(ctx context.Context, api *api, id string) (string, error) {
				r, err := api.RevokeToken(ctx, &controlpb.RevokeTokenRequest{Id: id})
				return r.GetId(), err
			})
		},
	}
}

// each does the same to several things, prints what was done to stdout and
// every failure to stderr; the last failure decides the exit code.
func (a *app) each(ctx context.Context, names []string, do func(context.Context, *api, string) (string, error)) error {
	return a.with(ctx, func(ctx context.Context, c *api) error {
		var last error
		for _, n := range names {
			id, err := do(ctx, c, n)
			if err != nil {
				if last != nil {
					a.printError(last)
				}
				last = apiclient.Err(err)
				continue
			}
			fmt.Fprintln(a.Stdout, printable(id))
		}
		return last
	})
}
