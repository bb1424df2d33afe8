package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
)

// serviceJSON is one service in `service ls --format json`.
type serviceJSON struct {
	ID      string   `json:"id"`
	Name    string   `json:"name"`
	Mode    string   `json:"mode"`
	Running uint64   `json:"running"`
	Wanted  uint64   `json:"wanted"`
	Held    uint64   `json:"held"`
	Image   string   `json:"image"`
	Ports   []string `json:"ports"`
	// Update is how far the last update or rollback is, "updating" or "rollback_paused",
	// with why; empty: there was none.
	Update        string `json:"update"`
	UpdateMessage string `json:"update_message"`
	// Of a job: the newest run that was begun, how it stands, and how many of its tasks
	// completed of how many; when the next is due, and whether its schedule counts.
	Run         uint64     `json:"run"`
	RunState    string     `json:"run_state"`
	Completed   uint64     `json:"completed"`
	Completions uint64     `json:"completions"`
	Due         *time.Time `json:"due"`
	Suspended   bool       `json:"suspended"`
	// Rebalance is how far its tasks are moved: "moving", "completed" or "stopped", with
	// why; empty: none was.
	Rebalance        string `json:"rebalance"`
	RebalanceMessage string `json:"rebalance_message"`
}

func newServiceJSON(v *controlpb.ServiceView) serviceJSON {
	sp := v.GetService().GetSpec()
	s := serviceJSON{
		ID: v.GetService().GetId(), Name: sp.GetName(), Mode: spec.ModeName(sp),
		Running: v.Running, Wanted: v.Wanted, Held: v.Held, Image: sp.GetTask().GetContainer().GetImage(), Ports: []string{},
		Due: instant(v.GetService().GetDue()), Suspended: v.GetService().GetSuspendedSince() != 0,
	}
	if run := spec.NewestRun(v.GetRuns()); run != nil {
		s.Run, s.RunState, s.Completed, s.Completions = run.GetNumber(), enumName(run.GetState(), "STATE_"), run.GetCompleted(), run.GetWanted()
	}
	s.Update, s.UpdateMessage = statusName(v.GetService().GetUpdateStatus()), v.GetService().GetUpdateStatus().GetMessage()
	s.Rebalance, s.RebalanceMessage = movesName(v.GetService().GetRebalanceStatus()), v.GetService().GetRebalanceStatus().GetMessage()
	for _, p := range sp.GetTask().GetPorts() {
		s.Ports = append(s.Ports, portString(p))
	}
	return s
}

func (a *app) serviceLsCmd() *cobra.Command {
	var out output
	var filter filterFlag
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List services",
		Example: `  redoubt service ls
  redoubt service ls --filter label=team=web --format '{{.Name}} {{.Running}}/{{.Wanted}}'`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListServices(ctx, &controlpb.ListServicesRequest{})
				if err != nil {
					return err
				}
				return a.printServices(&out, &filter, r.Services)
			})
		},
	}
	serviceListFlags(c, &out, &filter)
	return c
}

// serviceListFlags are those of lists of services.
func serviceListFlags(c *cobra.Command, out *output, filter *filterFlag) {
	out.flags(c, true)
	out.noTruncFlag(c)
	filter.add(c, "id", "name", "mode="+strings.Join(modes, "|"), "label")
}

func (a *app) printServices(out *output, filter *filterFlag, views []*controlpb.ServiceView) error {
	var ids []string
	objects := []serviceJSON{}
	var rows [][]string
	for _, v := range views {
		s := newServiceJSON(v)
		if !filter.begins("id", s.ID) || !filter.begins("name", s.Name) || !filter.is("mode", s.Mode) ||
			!filter.label(v.GetService().GetSpec().GetLabels()) {
			continue
		}
		ids, objects = append(ids, s.ID), append(objects, s)
		replicas := fmt.Sprintf("%d/%d", s.Running, s.Wanted)
		if s.Held > 0 {
			replicas += fmt.Sprintf(" (%d held)", s.Held)
		}
		if note := statusNote(v.GetService().GetUpdateStatus()); note != "" {
			replicas += " (" + note + ")"
		}
		if note := jobNote(v); note != "" {
			replicas += " (" + note + ")"
		}
		if v.GetService().GetRebalanceStatus().GetState() == stateMoving {
			replicas += " (moving)"
		}
		rows = append(rows, []string{out.id(s.ID), s.Name, s.Mode, replicas, s.Image, strings.Join(s.Ports, ", ")})
	}
	return out.list(a.Stdout, ids, objects, []string{"ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS"}, rows)
}

// taskJSON is one task in `service ps --format json`.
type taskJSON struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Image    string    `json:"image"`
	Node     string    `json:"node"`
	NodeID   string    `json:"node_id"`
	Desired  string    `json:"desired"`
	State    string    `json:"state"`
	Since    time.Time `json:"since"`
	Message  string    `json:"message,omitempty"`
	Error    string    `json:"error,omitempty"`
	ExitCode int32     `json:"exit_code"`
	OOM      bool      `json:"oom_killed"`
	Address  string    `json:"address,omitempty"`
	Revision uint64    `json:"revision"`
	// Run is the one of its job that it is of; 0: of none.
	Run uint64 `json:"run"`
	// PreemptedBy is the task of a higher priority for which it ended, MakesWayFor the
	// one that is to run in its stead.
	PreemptedBy string `json:"preempted_by,omitempty"`
	MakesWayFor string `json:"makes_way_for,omitempty"`
	// Networks are its addresses, by the networks' names.
	Networks map[string][]string `json:"networks,omitempty"`
	// Ports lead to it.
	Ports []string `json:"ports,omitempty"`
}

func newTaskJSON(v *controlpb.TaskView) taskJSON {
	t, s := v.Task, v.Task.GetStatus()
	var networks map[string][]string
	for _, n := range v.GetNetworks() {
		if networks == nil {
			networks = map[string][]string{}
		}
		networks[n.GetNetworkName()] = n.GetAddresses()
	}
	var ports []string
	for _, p := range v.GetPorts() {
		ports = append(ports, portString(p))
	}
	return taskJSON{Networks: networks, Ports: ports,
		ID: t.GetId(), Name: taskName(v), Image: v.Image, Node: v.NodeName, NodeID: t.GetNodeId(),
		Desired: enumName(t.GetDesired(), "TASK_STATE_"), State: enumName(s.GetState(), "TASK_STATE_"),
		Since: time.Unix(0, s.GetAt()).UTC(), Message: s.GetMessage(), Error: s.GetError(),
		ExitCode: s.GetExitCode(), OOM: s.GetOomKilled(), Address: s.GetAddress(), Revision: t.GetRevision(), Run: t.GetIteration(),
		PreemptedBy: t.GetPreemptedBy(), MakesWayFor: t.GetMakesWayFor(),
	}
}

func (a *app) servicePsCmd() *cobra.Command {
	var (
		out    output
		filter filterFlag
		node   string
	)
	c := &cobra.Command{
		Use: "ps [SERVICE...]", Short: "List the tasks of services (none named: of all)",
		Example: `  redoubt service ps web
  redoubt service ps --filter desired-state=running --node worker-1`,
		Args: args(0, -1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListTasks(ctx, &controlpb.ListTasksRequest{Services: names, Node: node})
				if err != nil {
					return err
				}
				err = a.printTasks(&out, slices.DeleteFunc(r.Tasks, func(t *controlpb.TaskView) bool { return !taskMatches(&filter, t) }), time.Now())
				if err != nil || len(names) == 0 || node != "" || out.structured() {
					return err
				}
				return a.sayHeld(ctx, api, names)
			})
		},
	}
	out.flags(c, true)
	out.noTruncFlag(c)
	filter.add(c, "id", "name", "node", "state="+taskStates, "desired-state=running|shutdown")
	c.Flags().StringVar(&node, "node", "", "only tasks on this node")
	return c
}

// sayHeld tells of tasks that are wanted and not in the list, as they were not
// made, and of updates and moves on their way.
func (a *app) sayHeld(ctx context.Context, api *api, names []string) error {
	r, err := api.ListServices(ctx, &controlpb.ListServicesRequest{Services: names})
	if err != nil {
		return err
	}
	for _, v := range r.Services {
		if st := v.GetService().GetUpdateStatus(); statusNote(st) != "" {
			fmt.Fprintf(a.Stderr, "%s: %s\n", printable(v.GetService().GetSpec().GetName()), printable(st.GetMessage()))
		}
		if st := v.GetService().GetRebalanceStatus(); st.GetState() == stateMoving {
			fmt.Fprintf(a.Stderr, "%s: %s\n", printable(v.GetService().GetSpec().GetName()), printable(st.GetMessage()))
		}
		if v.Held > 0 {
			fmt.Fprintf(a.Stderr, "%d more of %s are held back: %s\n", v.Held, printable(v.GetService().GetSpec().GetName()), printable(v.HeldReason))
		}
	}
	return nil
}

// taskStates are what a task's state may be.
const taskStates = "new|pending|assigned|accepted|preparing|ready|starting|running|complete|shutdown|failed|rejected|orphaned"

func taskMatches(f *filterFlag, v *controlpb.TaskView) bool {
	t := newTaskJSON(v)
	desired := "running"
	if v.Task.GetDesired() > schedulerpb.TaskState_TASK_STATE_RUNNING {
		desired = "shutdown"
	}
	return f.begins("id", t.ID) && f.begins("name", t.Name) && f.begins("node", t.Node) && f.is("state", t.State) && f.is("desired-state", desired)
}

func (a *app) printTasks(out *output, views []*controlpb.TaskView, now time.Time) error {
	slices.SortStableFunc(views, func(x, y *controlpb.TaskView) int {
		return cmp.Or(strings.Compare(x.ServiceName, y.ServiceName), cmp.Compare(y.Task.GetIteration(), x.Task.GetIteration()), cmp.Compare(x.Task.GetSlot(), y.Task.GetSlot()),
			strings.Compare(x.NodeName, y.NodeName), cmp.Compare(y.Task.GetMeta().GetCreatedAt(), x.Task.GetMeta().GetCreatedAt()))
	})
	var ids []string
	objects := []taskJSON{}
	var rows [][]string
	published := slices.ContainsFunc(views, func(v *controlpb.TaskView) bool { return len(v.GetPorts()) > 0 })
	ofRuns := slices.ContainsFunc(views, func(v *controlpb.TaskView) bool { return v.GetTask().GetIteration() != 0 })
	onNetworks := slices.ContainsFunc(views, func(v *controlpb.TaskView) bool { return len(v.GetNetworks()) > 0 })
	for _, v := range views {
		t := newTaskJSON(v)
		ids, objects = append(ids, t.ID), append(objects, t)
		text := cmp.Or(t.Error, leavesFor(v.Task), t.Message)
		if t.State == "running" {
			text = cmp.Or(t.Error, leavesFor(v.Task))
		}
		row := []string{out.id(t.ID), t.Name, t.Image, nodeLabel(t.Node, t.NodeID), t.Desired, t.State + " " + ago(t.Since, now), out.text(text)}
		if ofRuns {
			run := ""
			if t.Run != 0 {
				run = fmt.Sprint(t.Run)
			}
			row = append(row, run)
		}
		if published {
			row = append(row, strings.Join(t.Ports, ", "))
		}
		if onNetworks {
			var networks []string
			for _, n := range v.GetNetworks() {
				networks = append(networks, networkText(n))
			}
			row = append(row, out.text(strings.Join(networks, ", ")))
		}
		rows = append(rows, row)
	}
	head := []string{"ID", "NAME", "IMAGE", "NODE", "DESIRED STATE", "CURRENT STATE", "ERROR"}
	if ofRuns {
		head = append(head, "RUN")
	}
	if published {
		head = append(head, "PORTS")
	}
	if onNetworks {
		head = append(head, "NETWORKS")
	}
	return out.list(a.Stdout, ids, objects, head, rows)
}
