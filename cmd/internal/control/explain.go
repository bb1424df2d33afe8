package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/placement"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Explain says why a task is where it is, or nowhere, and which nodes could run
// one more task of its service. It asks the scheduler's own filters about the
// state as it is now.
func (s *Server) Explain(ctx context.Context, req *controlpb.ExplainRequest) (*controlpb.ExplainResponse, error) {
	resp := &controlpb.ExplainResponse{}
	err := s.view(ctx, func(r *raftstore.ReadTx) error {
		svc, task, err := target(r, req.GetTarget())
		if err != nil {
			return err
		}
		resp.Service = serviceView(r, svc, 0)
		revision := svc.GetRevision()
		if task != nil {
			revision = task.GetRevision()
			for _, v := range taskViews(r, svc, "") {
				if v.GetTask().GetId() == task.GetId() {
					resp.Task = v
				}
			}
		}
		cluster, asked, err := ask(r, svc.GetId(), revision)
		if err != nil {
			return err
		}
		e := explainer{r: r, svc: svc, view: resp.Service, task: task, cluster: cluster, req: asked, verdicts: cluster.Explain(asked), now: time.Now()}
		resp.Summary, resp.Remedies = e.summary(), e.remedies()
		resp.Nodes, resp.More = e.nodes()
		return nil
	})
	return resp, err
}

// target finds a service, or where there is none, a task and its service.
func target(r raftstore.Reader, ref string) (*schedulerpb.Service, *schedulerpb.Task, error) {
	svc, err := schedstore.ResolveService(r, ref)
	if err == nil {
		return svc, nil, nil
	}
	task, terr := schedstore.ResolveTask(r, ref)
	if terr != nil {
		if strings.Contains(ref, ".") {
			err = terr
		}
		return nil, nil, err
	}
	svc, ok := schedstore.Services.Get(r, task.GetServiceId())
	if !ok {
		return nil, nil, apierr.NotFound("", "the service of task %s was removed", ref)
	}
	return svc, task, nil
}

// ask builds what placement knows, and what one more task of the service asks of it.
func ask(r raftstore.Reader, service string, revision uint64) (*placement.Cluster, *placement.Request, error) {
	requests := map[string]*placement.Request{}
	request := func(service string, revision uint64) *placement.Request {
		id := schedstore.RevisionID(service, revision)
		if req, ok := requests[id]; ok {
			return req
		}
		var req *placement.Request
		if rev, ok := schedstore.Revisions.Get(r, id); ok {
			if req, _ = placement.Compile(service, revision, rev.GetSpec(), meshstore.NodeFeature(r)); req != nil { // what does not compile is not placed
				svc, _ := schedstore.Services.Get(r, service)
				req.Have(schedstore.VolumesOf(r, rev.GetSpec().GetContainer()), !spec.PerNode(svc.GetSpec()))
			}
		}
		requests[id] = req
		return req
	}
	c := placement.NewCluster()
	c.SetStrategy(schedstore.Strategy(r))
	for n := range schedstore.Nodes.All(r) {
		c.SetNode(n)
	}
	for t := range schedstore.Tasks.All(r) {
		if req := request(t.GetServiceId(), t.GetRevision()); req != nil {
			c.SetTask(t, req)
		}
	}
	req := request(service, revision)
	if req == nil {
		return nil, nil, fmt.Errorf("service %s has no usable revision %d", service, revision)
	}
	return c, req, nil
}

// explainer words what was found.
type explainer struct {
	r        raftstore.Reader
	svc      *schedulerpb.Service
	view     *controlpb.ServiceView
	task     *schedulerpb.Task
	cluster  *placement.Cluster
	req      *placement.Request
	verdicts []placement.Verdict
	now      time.Time
}

func (e *explainer) name() string { return e.svc.GetSpec().GetName() }

// dependsOn is what new tasks of the service wait for.
func (e *explainer) dependsOn() []*taskpb.Dependency { return e.svc.GetSpec().GetTask().GetDependsOn() }

func (e *explainer) summary() []string {
	var out []string
	if e.task != nil {
		out = append(out, e.taskLine())
	} else {
		out = append(out, fmt.Sprintf("%s wants %d tasks and %d run", e.name(), e.view.GetWanted(), e.view.GetRunning()))
		if n := e.view.GetHeld(); n > 0 {
			out = append(out, after(fmt.Sprintf("%d are held back until there is room", n), e.view.GetHeldReason()))
		}
		out = append(append(append(out, e.runs()...), e.waiting()...), e.givenUp()...)
	}
	fit := 0
	for _, v := range e.verdicts {
		if v.Reason == "" {
			fit++
		}
	}
	if e.task == nil || schedstore.State(e.task) <= schedulerpb.TaskState_TASK_STATE_PENDING {
		out = append(out, fmt.Sprintf("%d of %d nodes could run one more", fit, len(e.verdicts)))
	}
	return append(out, e.placement(fit)...)
}

// runs says how a job's runs are, and when the next is due.
func (e *explainer) runs() (out []string) {
	for _, run := range e.view.GetRuns() {
		state := map[schedulerpb.ServiceRun_State]string{schedstore.RunGoing: "goes on", schedstore.RunCompleted: "completed",
			schedstore.RunFailed: "failed", schedstore.RunStopped: "was stopped"}[run.GetState()]
		out = append(out, after(fmt.Sprintf("run %d %s, %d of %d tasks completed", run.GetNumber(), state, run.GetCompleted(), run.GetWanted()), run.GetMessage()))
	}
	switch {
	case e.svc.GetSpec().GetSchedule() == nil:
	case e.svc.GetSuspendedSince() != 0:
		out = append(out, "its schedule is suspended since "+time.Unix(0, e.svc.GetSuspendedSince()).UTC().Format(time.RFC3339))
	case e.svc.GetDue() != 0:
		out = append(out, "it is due next at "+time.Unix(0, e.svc.GetDue()).UTC().Format(time.RFC3339))
	}
	return out
}

func (e *explainer) taskLine() string {
	t, st := e.task, e.task.GetStatus()
	name := schedstore.TaskName(e.name(), t)
	on := nodeName(e.r, t.GetNodeId())
	why := cmp.Or(st.GetError(), st.GetMessage())
	switch state := schedstore.State(t); {
	case state == schedstore.Running && t.GetDesired() > schedstore.Running:
		return fmt.Sprintf("%s is being stopped on %s", name, on)
	case state == schedstore.Running:
		return fmt.Sprintf("%s runs on %s", name, on)
	case !schedstore.Live(t):
		return after(fmt.Sprintf("%s ended on %s as %s", name, on, schedstore.StateName(state)), why)
	case t.GetNodeId() != "":
		return after(fmt.Sprintf("%s is %s on %s", name, schedstore.StateName(state), on), why)
	case time.Unix(0, t.GetNotBefore()).After(e.now):
		return fmt.Sprintf("%s waits %s before it is started again", name, time.Unix(0, t.GetNotBefore()).Sub(e.now).Round(time.Second))
	}
	if waits := schedstore.Waits(e.r, e.svc, e.dependsOn()); waits != "" {
		return name + " " + waits
	}
	return after(name+" waits for a node", why)
}

func after(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}

// waiting groups the service's tasks that should run and do not, by what they
// say, the most frequent first.
func (e *explainer) waiting() []string {
	count := map[string]int{}
	for t := range schedstore.OfService(e.r, e.svc.GetId()) {
		if schedstore.Wanted(t) && schedstore.State(t) != schedstore.Running {
			st := t.GetStatus()
			count[after(schedstore.StateName(st.GetState()), cmp.Or(st.GetError(), st.GetMessage()))]++
		}
	}
	lines := make([]string, 0, len(count))
	for what := range count {
		lines = append(lines, what)
	}
	slices.SortFunc(lines, func(a, b string) int { return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(a, b)) })
	for i, what := range lines {
		lines[i] = fmt.Sprintf("%d %s", count[what], what)
	}
	return lines[:min(len(lines), maxExplained)]
}

// givenUp says how many tasks the restart policy starts no more.
func (e *explainer) givenUp() []string {
	var last *schedulerpb.Task
	n := 0
	for t := range schedstore.OfService(e.r, e.svc.GetId()) {
		if t.GetSettled() && t.GetRevision() == e.svc.GetRevision() && !schedstore.Live(t) {
			if n++; last == nil || t.GetStatus().GetAt() > last.GetStatus().GetAt() {
				last = t
			}
		}
	}
	if n == 0 {
		return nil
	}
	p := e.svc.GetSpec().GetTask().GetRestart()
	policy := "condition " + strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(p.GetCondition().String(), "CONDITION_"), "_", "-"))
	if most := p.GetMaxAttempts(); most > 0 {
		policy += fmt.Sprintf(", %d attempts", most)
		if w := p.GetWindowNs(); w > 0 {
			policy += fmt.Sprintf(" within %s", time.Duration(w))
		}
	}
	return []string{after(fmt.Sprintf("%d started no more by the restart policy (%s), the last one %s", n, policy, schedstore.StateName(schedstore.State(last))),
		last.GetStatus().GetError())}
}

// remedies are commands for what speaks against the nodes.
func (e *explainer) remedies() (out []string) {
	add := func(format string, args ...any) {
		if s := fmt.Sprintf(format, args...); len(out) < maxExplained && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	if e.movable() {
		add("redoubt service rebalance %s", e.name())
	}
	if e.task != nil && schedstore.State(e.task) == schedstore.Running || e.task == nil && e.view.GetRunning() >= e.view.GetWanted() {
		return out
	}
	if e.task == nil && len(e.givenUp()) > 0 {
		add("redoubt service logs --tail 20 %s", e.name())
		if spec.IsJob(e.svc.GetSpec()) {
			add("redoubt service run %s", e.name())
		} else {
			add("redoubt service update --force %s", e.name())
		}
		return out
	}
	if awaited := schedstore.Awaited(e.r, e.svc, e.dependsOn()); len(awaited) > 0 && (e.task == nil || e.task.GetNodeId() == "") {
		for _, name := range awaited {
			if schedstore.Named(e.r, name) != nil {
				add("redoubt service explain %s", name)
			} else {
				add("redoubt service update --depends-on-rm %s %s", name, e.name())
			}
		}
		return out
	}
	if len(e.verdicts) == 0 {
		add("redoubt join-token worker")
	}
	for _, v := range e.sorted() {
		node := nodeName(e.r, v.NodeID)
		switch {
		case v.Reason == "":
			add("redoubt service logs --tail 20 %s", e.name())
		case v.Reason == "drained" && e.autoDrained(v.NodeID): // managers keep out of it, by design
		case v.Reason == "drained", v.Reason == "paused":
			add("redoubt node update --availability active %s", node)
		case v.Reason == "down", v.Reason == "not ready":
			add("redoubt node inspect %s", node)
		case strings.HasPrefix(v.Reason, "lacks label "):
			add("redoubt node update --label-add %s %s", word(strings.TrimPrefix(v.Reason, "lacks label ")), node)
		case strings.HasPrefix(v.Reason, "cannot make tunnels "):
			add("redoubt node inspect %s", node)
		case strings.HasPrefix(v.Reason, "lacks "), strings.HasPrefix(v.Reason, "has port "):
			add("redoubt join-token worker")
		}
	}
	return out
}

// word is s as one word of a shell's command line. A label's value is free text,
// by whoever wrote the service, and the command is there to be pasted.
func word(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._/=:@%+,-", r))
	}) {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

func (e *explainer) autoDrained(node string) bool {
	n, _ := schedstore.Nodes.Get(e.r, node)
	return n.GetManager() && n.GetAvailability() == schedstore.Auto
}

// sorted has the nodes that could, those with the fewest tasks of the service
// first, and then the others by their reason.
func (e *explainer) sorted() []placement.Verdict {
	slices.SortFunc(e.verdicts, func(a, b placement.Verdict) int {
		return cmp.Or(strings.Compare(a.Reason, b.Reason), cmp.Compare(a.ServiceTasks, b.ServiceTasks),
			cmp.Compare(a.Tasks, b.Tasks), strings.Compare(a.NodeID, b.NodeID))
	})
	return e.verdicts
}

func (e *explainer) nodes() (out []*controlpb.NodeVerdict, more uint32) {
	all := e.sorted()
	for _, v := range all[:min(len(all), maxVerdicts)] {
		out = append(out, &controlpb.NodeVerdict{NodeId: v.NodeID, Name: nodeName(e.r, v.NodeID), Reason: v.Reason,
			ServiceTasks: uint32(v.ServiceTasks), Tasks: uint32(v.Tasks)})
	}
	return out, uint32(len(all) - len(out))
}
