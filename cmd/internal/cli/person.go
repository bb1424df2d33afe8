package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
)

func (a *app) personCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "person",
		Short: "Invite people, and take their access away",
		Long: `A person comes in from another machine by a certificate of their own, which lives
for hours and renews itself while it is used. An invitation makes the first one:
see redoubt context. What a person may do is for roles and policies to say (redoubt
auth bind); without any that is nothing but redoubt whoami.`,
	}
	group(c)
	c.AddCommand(a.personInviteCmd(), a.personLsCmd(), a.personRevokeCmd(), a.personRmCmd())
	return c
}

func (a *app) personInviteCmd() *cobra.Command {
	var ttl, life time.Duration
	var quiet bool
	c := &cobra.Command{
		Use: "invite NAME", Short: "Make an invitation, which is shown once",
		Long: `invite makes an invitation for a person, good for one use on one machine. Its
secret is made here; the cluster keeps only the public half. Somebody who has a
certificate already is moved: when the new invitation is taken, the machine of
before is refused.`,
		Example: `  redoubt person invite alice

  # Taken within ten minutes; certificates of an hour
  redoubt person invite alice --ttl 10m --lifetime 1h

  # The invitation alone, into a file only root can read
  (umask 077; redoubt person invite -q alice > /root/alice)`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, names []string) error {
			if err := profile.CheckPersonName(names[0]); err != nil {
				return usagef("%v", err)
			}
			for flag, d := range map[string]time.Duration{"ttl": ttl, "lifetime": life} {
				if d < 0 || d%time.Second != 0 {
					return usagef("--%s %s: give a positive number of whole seconds, as 10m or 1h", flag, d)
				}
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				inv, r, err := apiclient.InvitePerson(ctx, api, &controlpb.InvitePersonRequest{Name: names[0],
					TtlSeconds: int64(ttl / time.Second), LifeSeconds: int64(life / time.Second)})
				if err != nil {
					return err
				}
				if quiet {
					_, err := fmt.Fprintln(a.Stdout, inv.Text())
					return err
				}
				return a.printInvitation(names[0], inv.Text(), r)
			})
		},
	}
	f := c.Flags()
	f.DurationVar(&ttl, "ttl", 0, "how long the invitation can be taken (default 1h, at most 168h)")
	f.DurationVar(&life, "lifetime", 0, "how long each certificate lives (default 12h; 2m to 168h)")
	f.BoolVarP(&quiet, "quiet", "q", false, "print the invitation only")
	return c
}

func (a *app) printInvitation(name, text string, r *controlpb.InvitePersonResponse) error {
	moved := ""
	if r.GetReplaces() {
		moved = fmt.Sprintf("%s has a certificate, which counts for nothing once this is taken.\n", name)
	}
	_, err := fmt.Fprintf(a.Stdout, `To let %s in, have run on their machine (until %s, once):

    redoubt context create NAME <<'EOF'
    %s
    EOF

%sThe invitation is shown this once; `+"`redoubt person revoke %s`"+` takes it back.
`, name, time.Unix(r.GetRecord().GetExpiresAt(), 0).UTC().Format(time.RFC3339), text, moved, name)
	return err
}

// personJSON is one person in --format json.
type personJSON struct {
	Name        string     `json:"name"`
	State       string     `json:"state"`
	Certificate *time.Time `json:"certificate_ends,omitempty"`
	Invitation  *time.Time `json:"invitation_ends,omitempty"`
	Lifetime    string     `json:"lifetime,omitempty"`
	InvitedBy   string     `json:"invited_by,omitempty"`
}

func newPersonJSON(v *controlpb.PersonView, now time.Time) personJSON {
	p := personJSON{Name: v.GetName(), State: "expired", InvitedBy: v.GetInvitedBy()}
	at := func(unix int64) *time.Time {
		if unix == 0 {
			return nil
		}
		t := time.Unix(unix, 0).UTC()
		return &t
	}
	p.Certificate, p.Invitation = at(v.GetCertificateEnds()), at(v.GetInvitationEnds())
	if v.GetLifeSeconds() != 0 {
		p.Lifetime = (time.Duration(v.GetLifeSeconds()) * time.Second).String()
	}
	switch {
	case v.GetDenied():
		p.State = "revoked"
	case p.Certificate != nil && p.Certificate.After(now):
		p.State = "active"
	case p.Invitation != nil:
		p.State = "invited"
	}
	return p
}

func (a *app) personLsCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List people and their certificates",
		Example: `  redoubt person ls
  redoubt person ls --format '{{.Name}} {{.State}}'`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListPeople(ctx, &controlpb.ListPeopleRequest{})
				if err != nil {
					return err
				}
				now := time.Now()
				end := func(t *time.Time) string {
					if t == nil {
						return ""
					}
					return in(*t, now)
				}
				var names []string
				objects := []personJSON{}
				var rows [][]string
				for _, v := range r.GetPeople() {
					p := newPersonJSON(v, now)
					names, objects = append(names, p.Name), append(objects, p)
					rows = append(rows, []string{p.Name, p.State, end(p.Certificate), end(p.Invitation), p.Lifetime, p.InvitedBy})
				}
				return out.list(a.Stdout, names, objects, []string{"NAME", "STATE", "CERTIFICATE ENDS", "INVITATION ENDS", "LIFETIME", "INVITED BY"}, rows)
			})
		},
	}
	out.flags(c, true)
	return c
}

func (a *app) personRevokeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "revoke NAME...", Short: "Take a person's access away now",
		Long: `revoke refuses a person from the moment the command returns: connections are cut,
and an invitation that was not taken counts for nothing. The person stays listed, as
revoked, until redoubt person rm; only then the name can be invited again.`,
		Example: `  redoubt person revoke alice`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.each(c.Context(), names, func(ctx context.Context, api *api, n string) (string, error) {
				r, err := api.RevokePerson(ctx, &controlpb.RevokePersonRequest{Name: n})
				return r.GetName(), err
			})
		},
	}
}

func (a *app) personRmCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME...", Aliases: []string{"remove"}, Short: "Forget a person, whose access ends now",
		Example: `  redoubt person rm alice`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.each(c.Context(), names, func(ctx context.Context, api *api, n string) (string, error) {
				r, err := api.RemovePerson(ctx, &controlpb.RemovePersonRequest{Name: n})
				return r.GetName(), err
			})
		},
	}
}

// whoamiJSON is the caller in --format json.
type whoamiJSON struct {
	Caller  string     `json:"caller"`
	ID      string     `json:"id,omitempty"`
	Person  string     `json:"person,omitempty"`
	Cluster string     `json:"cluster"`
	Ends    *time.Time `json:"certificate_ends,omitempty"`
	Source  string     `json:"source,omitempty"`
}

func (a *app) whoamiCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "whoami", Short: "Show whom the cluster takes you for",
		Example: `  redoubt whoami
  redoubt whoami --context prod --format '{{.Person}}'`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.WhoAmI(ctx, &controlpb.WhoAmIRequest{})
				if err != nil {
					return err
				}
				w := whoamiJSON{Caller: r.GetDescription(), ID: r.GetId(), Person: r.GetPerson(), Cluster: r.GetClusterId(), Source: r.GetSource()}
				if r.GetCertificateEnds() != 0 {
					t := time.Unix(r.GetCertificateEnds(), 0).UTC()
					w.Ends = &t
				}
				if out.structured() {
					return out.objects(a.Stdout, w)
				}
				field(a.Stdout, "Caller", w.Caller)
				field(a.Stdout, "Identity", w.ID)
				field(a.Stdout, "Cluster", w.Cluster)
				if w.Ends != nil {
					field(a.Stdout, "Certificate", "expires "+in(*w.Ends, time.Now()))
				}
				field(a.Stdout, "Seen from", w.Source)
				return nil
			})
		},
	}
	out.flags(c, false)
	return c
}
