package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// scheduleJSON is the schedule in --format json; of none, EverySeconds is 0.
type scheduleJSON struct {
	EverySeconds int64      `json:"every_seconds"`
	Next         *time.Time `json:"next,omitempty"`
	Profile      string     `json:"profile,omitempty"`
	Keep         uint32     `json:"keep"`
}

func (a *app) complianceScheduleCmd() *cobra.Command {
	var (
		every   nonNegative
		keep    uint32
		profile string
		off     bool
		out     output
	)
	c := &cobra.Command{
		Use:   "schedule",
		Short: "Show or set how often the leader makes a signed report by itself",
		Long: `schedule has the leader judge cluster and nodes every so often, sign the report and
keep it; the first is made within a minute. Whoever leads then makes it: none is made
twice. What fails is tried again a minute later. Without flags it shows what is set.`,
		Example: `  redoubt compliance schedule --every 24h --keep 14 --profile nist-800-190
  redoubt compliance schedule --off`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			set := c.Flags().Changed
			switch {
			case off && (set("every") || set("keep") || set("profile")):
				return usagef("--off goes alone")
			case !set("every") && (set("keep") || set("profile")):
				return usagef("--every is missing: how often a report is made")
			case set("every") && every == 0:
				return usagef("--every is a duration, as 24h; --off ends it")
			case set("every") && time.Duration(every)%time.Second != 0:
				return usagef("--every is of whole seconds")
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				if off || set("every") {
					req := &controlpb.SetComplianceScheduleRequest{Every: int64(time.Duration(every) / time.Second), Keep: keep, Profile: profile}
					if _, err := api.SetComplianceSchedule(ctx, req); err != nil {
						return err
					}
				}
				r, err := api.ListReports(ctx, &controlpb.ListReportsRequest{})
				if err != nil {
					return err
				}
				if out.structured() {
					v := scheduleJSON{EverySeconds: r.GetEvery(), Profile: r.GetProfile(), Keep: r.GetKeep()}
					if v.EverySeconds > 0 {
						next := unixUTC(r.GetNext())
						v.Next = &next
					}
					return out.objects(a.Stdout, v)
				}
				if r.GetEvery() == 0 {
					_, err = fmt.Fprintf(a.Stdout, "No report is made by itself. %d signed reports are kept.\n", r.GetKeep())
					return err
				}
				_, err = fmt.Fprintf(a.Stdout, "A report by %s is made every %v, the next on %s. %d signed reports are kept.\n",
					printable(r.GetProfile()), time.Duration(r.GetEvery())*time.Second, unixUTC(r.GetNext()).Format(time.RFC3339), r.GetKeep())
				return err
			})
		},
	}
	out.flags(c, false)
	f := c.Flags()
	f.Var(&every, "every", "how often, 10m to 8784h")
	f.Uint32Var(&keep, "keep", 0, "how many signed reports are kept, at most 32 (default: as it was, and 10 at first)")
	f.StringVar(&profile, "profile", "", "by which profile that is built in (default redoubt-baseline)")
	f.BoolVar(&off, "off", false, "make none by itself any more; those that are kept stay")
	_ = c.RegisterFlagCompletionFunc("profile", profileNames)
	return c
}
