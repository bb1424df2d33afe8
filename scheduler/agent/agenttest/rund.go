package agenttest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"google.golang.org/protobuf/proto"
)

// Rund stands in for rund and containerd: containers are entries of a map that
// go through rund's phases. It is an agent.Executor and holds the agent to
// rund's contract: what breaks it is found in Violations.
type Rund struct {
	// Attached, if set, is asked before a container starts and before it is
	// removed: starting without network, or removing with it, is a violation.
	Attached func(task string) bool
	// Ready, if set, is asked before a container starts whether it is on all of its
	// networks.
	Ready func(task string, spec *taskpb.TaskSpec) bool
	// InUse, if set, is asked before the namespace of a network is removed.
	InUse func(network string) bool

	mu         sync.Mutex
	generation uint64
	tasks      map[string]*rundpb.TaskActual
	starts     map[string]int
	watchers   map[*watcher]struct{}
	features   []*taskpb.Feature
	rejected   map[string]string
	logs       map[string][]string
	down       bool
	applies    int
	policy     string
	violations []string
	networks   map[string]bool
	unmade     map[string]string
	driven     map[string][]string
	unrelayed  map[uint32]string
	waiting    map[string]*rundpb.TaskDesired // for their files
	execs      int                            // commands that run
}

type watcher struct {
	queue []*rundpb.WatchResponse
	ready chan struct{}
	gone  chan struct{}
}

// NewRund returns one without containers.
func NewRund() *Rund {
	return &Rund{
		tasks: map[string]*rundpb.TaskActual{}, starts: map[string]int{},
		watchers: map[*watcher]struct{}{}, rejected: map[string]string{}, logs: map[string][]string{},
		networks: map[string]bool{}, unmade: map[string]string{}, driven: map[string][]string{}, unrelayed: map[uint32]string{},
		waiting: map[string]*rundpb.TaskDesired{},
	}
}

// Probe answers with the features set.
func (r *Rund) Probe(ctx context.Context) (*rundpb.ProbeResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return nil, errors.New("connection refused")
	}
	return &rundpb.ProbeResponse{Runtime: "test", Features: r.features}, nil
}

// ImagePolicy is what the last declaration said of images.
func (r *Rund) ImagePolicy() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.policy
}

// SetFeatures is what Probe answers from now on.
func (r *Rund) SetFeatures(f ...*taskpb.Feature) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.features = f
}

// Drive is what networks of a driver give each task, in CIDR.
func (r *Rund) Drive(driver string, addresses ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.driven[driver] = addresses
}

// Reject makes preparing the task fail for good.
func (r *Rund) Reject(task, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rejected[task] = text
}

// SetLogs is what the task has printed.
func (r *Rund) SetLogs(task string, lines ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.logs[task] = lines
}

// Restart is a crash of rund: reports end, containers and what they are stay.
func (r *Rund) Restart() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.generation = 0
	r.disconnect()
}

// Reboot is a restart of the machine: nothing is left.
func (r *Rund) Reboot() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.generation = 0
	clear(r.tasks)
	clear(r.networks)
	r.disconnect()
}

// SetDown makes every call fail, or work again.
func (r *Rund) SetDown(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
	if down {
		r.generation = 0
		r.disconnect()
	}
}

func (r *Rund) disconnect() {
	for w := range r.watchers {
		close(w.gone)
	}
	clear(r.watchers)
}

// Exit ends a running container by itself.
func (r *Rund) Exit(task string, code int32, oom bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tasks[task]
	if t == nil || t.Phase != rundpb.Phase_PHASE_RUNNING {
		return false
	}
	r.change(task, func(t *rundpb.TaskActual) {
		t.Phase, t.ExitCode, t.OomKilled = rundpb.Phase_PHASE_EXITED, code, oom
	})
	return true
}

// Health reports what healthchecks found of a task that runs.
func (r *Rund) Health(task string, h rundpb.Health, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.change(task, func(t *rundpb.TaskActual) { t.Health, t.Message = h, message })
}

// Actual is the task as Watch reports it, or nil.
func (r *Rund) Actual(task string) *rundpb.TaskActual {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tasks[task]
}

// Tasks lists every task there is and its phase.
func (r *Rund) Tasks() map[string]rundpb.Phase {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]rundpb.Phase{}
	for id, t := range r.tasks {
		out[id] = t.Phase
	}
	return out
}

// Starts counts how often the task's container was started.
func (r *Rund) Starts(task string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.starts[task]
}

// Applies counts declarations.
func (r *Rund) Applies() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.applies
}

// Violations lists what the agent should not have done.
func (r *Rund) Violations() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.violations
}

// Apply makes it so, at once.
func (r *Rund) Apply(ctx context.Context, req *rundpb.ApplyRequest) (*rundpb.ApplyResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return nil, errors.New("connection refused")
	}
	if req.Generation <= r.generation {
		r.violate("generation %d after %d", req.Generation, r.generation)
		return nil, errors.New("older generation")
	}
	r.generation = req.Generation
	r.policy = string(req.ImagePolicy)
	r.applies++
	named := map[string]bool{}
	for _, d := range req.Tasks {
		named[d.TaskId] = true
		r.converge(d)
		r.relay(d)
	}
	for id, t := range r.tasks {
		if named[id] {
			continue
		}
		if t.Phase == rundpb.Phase_PHASE_RUNNING {
			r.violate("running task %s was removed without being stopped", id)
		}
		if r.Attached != nil && r.Attached(id) {
			r.violate("task %s was removed while its network was attached", id)
		}
		delete(r.tasks, id)
		r.tell(&rundpb.WatchResponse{Removed: []string{id}})
	}
	return &rundpb.ApplyResponse{NetworkErrors: r.sync(req)}, nil
}

// sync makes and removes networks' namespaces.
func (r *Rund) sync(req *rundpb.ApplyRequest) map[string]string {
	failed := map[string]string{}
	wanted := map[string]bool{}
	for _, id := range req.Networks {
		wanted[id] = true
		if text := r.unmade[id]; text != "" {
			failed[id] = text
			continue
		}
		r.networks[id] = true
	}
	for id := range r.networks {
		if !wanted[id] && !req.KeepNetworks {
			if r.InUse != nil && r.InUse(id) {
				r.violate("the namespace of network %s was removed while netd had it", id)
			}
			delete(r.networks, id)
		}
	}
	return failed
}

// FailNetwork makes the namespace of a network impossible with this text; empty:
// no more.
func (r *Rund) FailNetwork(id, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unmade[id] = text
}

// Network reports whether a network has a namespace.
func (r *Rund) Network(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.networks[id]
}

func (r *Rund) converge(d *rundpb.TaskDesired) {
	id := d.TaskId
	t := r.tasks[id]
	over := t != nil && t.Phase >= rundpb.Phase_PHASE_EXITED
	switch d.Phase {
	case rundpb.Phase_PHASE_CREATED, rundpb.Phase_PHASE_RUNNING:
		if d.Spec.GetContainer() == nil || d.Endpoint.GetAddress() == "" {
			r.violate("task %s declared without container or endpoint", id)
			return
		}
		if over {
			return // ended is ended
		}
		if t == nil || len(t.Files) > 0 && t.Phase == rundpb.Phase_PHASE_PREPARING {
			r.change(id, func(t *rundpb.TaskActual) {
				t.Phase, t.Spec, t.Endpoint = rundpb.Phase_PHASE_PREPARING, d.Spec, d.Endpoint
			})
			if text, no := r.rejected[id]; no {
				r.change(id, func(t *rundpb.TaskActual) {
					t.Phase, t.Error, t.Rejected = rundpb.Phase_PHASE_FAILED, text, true
				})
				return
			}
			if r.awaits(d) {
				return
			}
			r.change(id, func(t *rundpb.TaskActual) {
				t.Phase, t.Netns, t.ContainerId = rundpb.Phase_PHASE_CREATED, id, "container-"+id
				for _, n := range d.LocalNetworks {
					if n.Driver == "cni" && n.Options["conflist"] != "lan" {
						r.violate("task %s is to be on a network with options %v", id, n.Options)
					}
					t.LocalAttachments = append(t.LocalAttachments, &rundpb.LocalAttachment{NetworkId: n.Id, Interface: fmt.Sprint("cni", n.Index), Addresses: r.driven[n.Driver]})
				}
			})
		}
		if d.Phase == rundpb.Phase_PHASE_RUNNING && r.tasks[id].Phase == rundpb.Phase_PHASE_CREATED {
			made := r.tasks[id].LocalAttachments
			if r.Attached != nil && !r.Attached(id) && len(made) == 0 {
				r.violate("task %s started without its network", id)
			}
			if r.Ready != nil && !r.Ready(id, others(d.Spec, made)) {
				r.violate("task %s started before it was on its networks", id)
			}
			r.starts[id]++
			r.change(id, func(t *rundpb.TaskActual) { t.Phase = rundpb.Phase_PHASE_STARTING })
			r.change(id, func(t *rundpb.TaskActual) {
				t.Phase = rundpb.Phase_PHASE_RUNNING
				if d.Spec.GetContainer().GetHealthcheck() != nil {
					t.Health = rundpb.Health_HEALTH_STARTING
				}
			})
		}
	default:
		if t == nil {
			r.violate("task %s is to be stopped but was never there", id)
			return
		}
		if over {
			return
		}
		r.change(id, func(t *rundpb.TaskActual) { t.Phase = rundpb.Phase_PHASE_STOPPING })
		r.change(id, func(t *rundpb.TaskActual) { t.Phase, t.ExitCode = rundpb.Phase_PHASE_EXITED, 143 })
	}
}

// others is the spec without the networks that were made with the container.
func others(spec *taskpb.TaskSpec, made []*rundpb.LocalAttachment) *taskpb.TaskSpec {
	spec = proto.CloneOf(spec)
	spec.Networks = slices.DeleteFunc(spec.Networks, func(u *taskpb.NetworkUse) bool {
		return slices.ContainsFunc(made, func(a *rundpb.LocalAttachment) bool { return a.NetworkId == u.Network })
	})
	return spec
}

func (r *Rund) violate(format string, args ...any) {
	r.violations = append(r.violations, fmt.Sprintf(format, args...))
}

func (r *Rund) change(id string, f func(*rundpb.TaskActual)) {
	t := &rundpb.TaskActual{TaskId: id}
	if old := r.tasks[id]; old != nil {
		t = proto.CloneOf(old)
	}
	f(t)
	t.At = time.Now().UnixNano()
	r.tasks[id] = t
	r.tell(&rundpb.WatchResponse{Tasks: []*rundpb.TaskActual{t}})
}

func (r *Rund) tell(m *rundpb.WatchResponse) {
	for w := range r.watchers {
		w.queue = append(w.queue, m)
		select {
		case w.ready <- struct{}{}:
		default:
		}
	}
}
