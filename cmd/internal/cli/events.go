package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// eventJSON is one event in `events --format json`, one line each.
type eventJSON struct {
	Time       time.Time         `json:"time"`
	Type       string            `json:"type"`
	Action     string            `json:"action"`
	ID         string            `json:"id,omitempty"`
	Name       string            `json:"name,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
}

// eventsFlags are those of events and service events.
type eventsFlags struct {
	out          output
	filter       filterFlag
	since, until string
}

func (e *eventsFlags) add(c *cobra.Command, filters ...string) {
	e.out.flags(c, false)
	c.Flags().StringVar(&e.since, "since", "", "also what happened since: 10m, or 2026-01-02T15:04:05Z")
	c.Flags().StringVar(&e.until, "until", "", "end then: 0s for now, or 2026-01-02T15:04:05Z")
	e.filter.add(c, filters...)
}

func (e *eventsFlags) request(c *cobra.Command) (*controlpb.EventsRequest, error) {
	req := &controlpb.EventsRequest{}
	now := time.Now()
	var err error
	for _, t := range []struct {
		flag, text string
		at         *int64
	}{{"since", e.since, &req.Since}, {"until", e.until, &req.Until}} {
		if t.text == "" && c.Flags().Changed(t.flag) { // an unset variable, not: for ever
			return nil, usagef("--%s is empty: give a duration as 10m, or a time as 2026-01-02T15:04:05Z", t.flag)
		}
		if *t.at, err = moment("--"+t.flag, t.text, now); err != nil {
			return nil, err
		}
	}
	return req, nil
}

func (a *app) serviceEventsCmd() *cobra.Command {
	var e eventsFlags
	c := &cobra.Command{
		Use: "events [SERVICE...]", Short: "Follow what happens to services and their tasks (none named: to all)",
		Long: `events shows how services and their tasks change, as redoubt events does, until it
is interrupted or --until has come. A service is named by its name: also one that is
not there any more, or not yet.`,
		Example: `  redoubt service events web
  redoubt service events --since 10m --until 0s --filter type=task --filter action=failed web`,
		Args: args(0, -1),
		RunE: func(c *cobra.Command, names []string) error {
			req, err := e.request(c)
			if err != nil {
				return err
			}
			e.filter.want["service"] = names
			if len(e.filter.want["type"]) == 0 {
				e.filter.want["type"] = []string{"service", "task"}
			}
			return a.runEvents(c.Context(), req, &e.out, &e.filter)
		},
	}
	e.add(c, "type=service|task", "action", "id", "name", "node", "stack")
	return c
}

func (a *app) eventsCmd() *cobra.Command {
	var e eventsFlags
	c := &cobra.Command{
		Use: "events", Short: "Follow what happens in the cluster",
		Long: `events shows nodes, services, tasks, secrets, configs, networks, policies, join
tokens, unlock keys, CAs, revoked identities, how nodes are chosen and what is demanded
of machines that join as they change, until it is interrupted or --until has come. --since also shows what the leader
still has in memory: the newest few thousand events. It is a help for people;
what was done and by whom, for good, is what "redoubt audit ls" shows.`,
		Example: `  redoubt events
  redoubt events --since 10m --until 0s --filter type=task --filter action=failed
  redoubt events --format json`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			req, err := e.request(c)
			if err != nil {
				return err
			}
			return a.runEvents(c.Context(), req, &e.out, &e.filter)
		},
	}
	e.add(c, "type=admission|audit-witness|break-glass|ca|config|identity|network|node|placement|policy|secret|service|task|token|unlock-key", "action", "id", "name", "service", "node", "stack")
	return c
}

// moment reads a point in time, as Unix nanoseconds: a duration before now, or
// RFC 3339. Empty is 0.
func moment(flag, s string, now time.Time) (int64, error) {
	if s == "" {
		return 0, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d).UnixNano(), nil
	}
	// Within what nanoseconds since 1970 can say; 0 would be no bound.
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil && t.Year() >= 1970 && t.Year() < 2262 {
		return max(t.UnixNano(), 1), nil
	}
	return 0, usagef("%s %q: give a duration as 10m, or a time as 2026-01-02T15:04:05Z", flag, s)
}

func (a *app) runEvents(ctx context.Context, req *controlpb.EventsRequest, out *output, filter *filterFlag) error {
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	stream, err := c.Events(ctx, req)
	if err != nil {
		return apiclient.Err(err)
	}
	for {
		r, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			if err = apiclient.Err(err); apierr.ReasonOf(err) == apierr.ReasonCanceled && ctx.Err() != nil {
				return nil // interrupted: that is how it is ended
			}
			return err
		}
		for _, e := range r.Events {
			if !eventMatches(filter, e) {
				continue
			}
			if err := a.printEvent(out, e); err != nil {
				return err
			}
		}
	}
}

// eventMatches never hides that events were lost.
func eventMatches(f *filterFlag, e *controlpb.Event) bool {
	if e.Type == "cluster" {
		return true
	}
	of := func(kind string) string { // an event of a service has its name as its own
		if e.Type == kind {
			return e.Name
		}
		return e.Attributes[kind]
	}
	return f.is("type", e.Type) && f.is("action", e.Action) && f.begins("id", e.Id) && f.begins("name", e.Name) &&
		f.is("service", of("service")) && f.is("node", of("node")) && f.is("stack", e.Attributes["stack"])
}

func (a *app) printEvent(out *output, e *controlpb.Event) error {
	at := time.Unix(0, e.At).UTC()
	if out.structured() {
		v := eventJSON{at, e.Type, e.Action, e.Id, e.Name, e.Attributes}
		if out.json() {
			return printLine(a.Stdout, v)
		}
		return out.objects(a.Stdout, v)
	}
	line := at.Format("2006-01-02T15:04:05.000Z07:00") + " " + e.Type + " " + e.Action
	if e.Name != "" || e.Id != "" {
		line += " " + nodeLabel(e.Name, e.Id)
	}
	if attrs := pairs(e.Attributes); attrs != "" {
		line += " (" + attrs + ")"
	}
	_, err := fmt.Fprintln(a.Stdout, printable(line))
	return err
}
