package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

func (a *app) breakGlassCmd() *cobra.Command {
	var reason string
	var d time.Duration
	c := &cobra.Command{
		Use: "break-glass --reason TEXT [--for DURATION]", Short: "As local root, be security-admin for a while, and have everybody know",
		Long: `break-glass is for the day on which whoever is security-admin cannot be reached. It
is for root on an unlocked manager, for a minute to four hours. It lets roles,
people and policies be mended. It never covers keys, slots, autolock and CAs; and
until it was acknowledged by somebody who was security-admin before, these are for
those people alone. redoubt status, redoubt events, the audit log, every manager's
log and each answer to a security-admin tell of it until then.`,
		Example: `  redoubt break-glass --reason "alice left, bob is on a plane" --for 30m
  redoubt break-glass end
  redoubt break-glass ack manager-2`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case strings.TrimSpace(reason) == "":
				return usagef("--reason is missing: say why, everybody reads it")
			case d < time.Minute || d > 4*time.Hour || d%time.Second != 0:
				return usagef("--for %s: give a minute to four hours, as 30m", d)
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.BreakGlass(ctx, &controlpb.BreakGlassRequest{Reason: reason, Seconds: int64(d / time.Second)})
				if err != nil {
					return err
				}
				fmt.Fprintf(a.Stdout, "Local root of this manager is security-admin until %s, but for keys, slots, autolock and CAs.\n", stamp(r.GetUntil()))
				fmt.Fprintf(a.Stdout, "Everybody hears of it until one of these acknowledges it: %s\n", printable(people(r.GetWitnesses())))
				return nil
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why: everybody reads it, and the audit log keeps it")
	c.Flags().DurationVar(&d, "for", 30*time.Minute, "for how long")
	c.AddCommand(a.breakGlassLsCmd(), a.breakGlassEndCmd(), a.breakGlassAckCmd())
	return c
}

func stamp(nanos int64) string { return time.Unix(0, nanos).UTC().Format(time.RFC3339) }

func people(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	var out []string
	for _, n := range names {
		out = append(out, "person:"+n)
	}
	return strings.Join(out, ", ")
}

// breakGlassJSON is one break-glass in --format json.
type breakGlassJSON struct {
	Principal string    `json:"principal"`
	Node      string    `json:"node"`
	Reason    string    `json:"reason"`
	Since     time.Time `json:"since"`
	Until     time.Time `json:"until"`
	Times     uint32    `json:"times"`
	Active    bool      `json:"active"`
	Witnesses []string  `json:"witnesses"`
}

func (a *app) breakGlassLsCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List those that nobody acknowledged",
		Example: `  redoubt break-glass ls`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListBreakGlasses(ctx, &controlpb.ListBreakGlassesRequest{})
				if err != nil {
					return err
				}
				var names []string
				var objects []any
				var rows [][]string
				for _, b := range r.GetBreakGlasses() {
					state := "ended"
					if b.GetActive() {
						state = "under way"
					}
					names = append(names, b.GetPrincipal())
					objects = append(objects, breakGlassJSON{b.GetPrincipal(), b.GetNodeId(), b.GetReason(), time.Unix(0, b.GetSince()).UTC(), time.Unix(0, b.GetUntil()).UTC(), b.GetTimes(), b.GetActive(), b.GetWitnesses()})
					rows = append(rows, []string{b.GetPrincipal(), state, stamp(b.GetUntil()), fmt.Sprint(b.GetTimes()), b.GetReason(), people(b.GetWitnesses())})
				}
				return out.list(a.Stdout, names, objects, []string{"PRINCIPAL", "STATE", "UNTIL", "TIMES", "REASON", "TO ACKNOWLEDGE"}, rows)
			})
		},
	}
	out.flags(c, true)
	return c
}

func (a *app) breakGlassEndCmd() *cobra.Command {
	return &cobra.Command{
		Use: "end", Short: "End what this manager's root began; it is still to be acknowledged",
		Example: `  redoubt break-glass end`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				_, err := api.EndBreakGlass(ctx, &controlpb.EndBreakGlassRequest{})
				return err
			})
		},
	}
}

func (a *app) breakGlassAckCmd() *cobra.Command {
	return &cobra.Command{
		Use: "ack NODE", Aliases: []string{"acknowledge"}, Short: "Say that a break-glass was looked into, and end it",
		Long: `ack is for somebody who was security-admin before: what was done then is in redoubt
audit ls --filter node=NODE, and what was changed of roles, people and policies is
good for everything from then on. Where none of them can call any more, who else is
security-admin does it.`,
		Example: `  redoubt break-glass ack manager-2`,
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, got []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				_, err := api.AcknowledgeBreakGlass(ctx, &controlpb.AcknowledgeBreakGlassRequest{Node: got[0]})
				return err
			})
		},
	}
}
