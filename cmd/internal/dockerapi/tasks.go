package dockerapi

import (
	"net/http"
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/swarm"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// tasks lists them. A task is told with its service's specification where it is of its
// newest revision: of older ones there is the image.
func (s *Server) tasks(q *request) (any, error) {
	f, err := readFilters(q.Request, "id", "name", "label", "service", "node", "desired-state", "runtime", "_up-to-date")
	if err != nil {
		return nil, err
	}
	if err := f.oneOf("desired-state", "running", "shutdown", "accepted", "ready", "complete", "remove", "new", "pending", "assigned", "starting"); err != nil {
		return nil, err
	}
	w := newTaskWords(q)
	if err := w.readServices(); err != nil {
		return nil, err
	}
	asked, empty := w.ids(f["service"])
	nodes, err := nodeIDs(q, f["node"])
	if err != nil {
		return nil, err
	}
	if empty || len(f["node"]) > 0 && len(nodes) == 0 {
		return q.list(each(func(func(any) bool) error { return nil }))
	}
	req := &controlpb.ListTasksRequest{Services: asked}
	if len(nodes) == 1 {
		req.Node = nodes[0]
	}
	return q.list(each(func(yield func(any) bool) error {
		return pages(q.Context(), q.api.StreamTasks, req, (*controlpb.ListTasksResponse).GetTasks, func(v *controlpb.TaskView) bool {
			t, svc := v.GetTask(), w.services[v.GetTask().GetServiceId()]
			if !f.begins("id", t.GetId()) || !f.begins("name", v.GetServiceName()) || !f.is("desired-state", taskState(t.GetDesired())) ||
				len(nodes) > 0 && !slices.Contains(nodes, t.GetNodeId()) || !f.has("label", svc.view.GetService().GetSpec().GetLabels()) || !f.is("runtime", "container") ||
				len(f["_up-to-date"]) > 0 && slices.Contains(f["_up-to-date"], "true") != (t.GetRevision() == svc.view.GetService().GetRevision()) {
				return true
			}
			return yield(w.task(v))
		})
	}))
}

// nodeIDs are the ids of the nodes that a filter names, of which there may be none.
func nodeIDs(q *request, asked []string) (ids []string, err error) {
	for _, name := range asked {
		r, err := q.api.ListNodes(q.Context(), &controlpb.ListNodesRequest{Nodes: []string{name}})
		if err != nil && !isNotFound(err) {
			return nil, err
		}
		for _, n := range r.GetNodes() {
			ids = append(ids, n.GetId())
		}
	}
	return ids, nil
}

func (s *Server) task(q *request) (any, error) {
	v, err := oneTask(q)
	if err != nil {
		return nil, err
	}
	w := newTaskWords(q)
	if err := w.readServices(); err != nil {
		return nil, err
	}
	return w.task(v), nil
}

// oneTask is the task that a path names.
func oneTask(q *request) (*controlpb.TaskView, error) {
	r, err := q.api.Explain(q.Context(), &controlpb.ExplainRequest{Target: q.PathValue("id")})
	if err != nil && !isNotFound(err) {
		return nil, err
	}
	if r.GetTask() == nil {
		return nil, refuse(http.StatusNotFound, "task %s not found", q.PathValue("id"))
	}
	return r.GetTask(), nil
}

// taskWords is what tasks are told with.
type taskWords struct {
	q        *request
	names    *names
	services map[string]serviceWords
	subnets  map[string][]netip.Prefix // of networks, by id; nil: not asked yet
}

type serviceWords struct {
	view *controlpb.ServiceView
	spec swarm.TaskSpec
}

func newTaskWords(q *request) *taskWords {
	return &taskWords{q: q, names: newNames(q), services: map[string]serviceWords{}}
}

func (w *taskWords) readServices() error {
	return eachService(w.q.Context(), w.q, func(v *controlpb.ServiceView) bool {
		w.services[v.GetService().GetId()] = serviceWords{v, toTaskSpec(v.GetService().GetSpec().GetTask(), w.names.of)}
		return true
	})
}

// ids are those of the services that are asked for, by id, name or beginning of an id.
// empty: they are asked for, and there are none such.
func (w *taskWords) ids(asked []string) (out []string, empty bool) {
	f := filters{"id": asked}
	for id, svc := range w.services {
		if len(asked) > 0 && (f.begins("id", id) || slices.Contains(asked, svc.view.GetService().GetSpec().GetName())) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out, len(asked) > 0 && len(out) == 0
}

func (w *taskWords) task(v *controlpb.TaskView) swarm.Task {
	t := v.GetTask()
	svc, ok := w.services[t.GetServiceId()]
	out := swarm.Task{
		ID: t.GetId(), Meta: toMeta(t.GetMeta()), Annotations: swarm.Annotations{Labels: map[string]string{}},
		Spec:      swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: v.GetImage(), Labels: map[string]string{}}, Runtime: swarm.RuntimeContainer},
		ServiceID: t.GetServiceId(), Slot: int(t.GetSlot()), NodeID: t.GetNodeId(), DesiredState: swarm.TaskState(taskState(t.GetDesired())),
		Status: toTaskStatus(t.GetStatus()), Volumes: []swarm.VolumeAttachment{},
	}
	jobTask(t, &out)
	if ok && svc.view.GetService().GetRevision() == t.GetRevision() {
		out.Spec = svc.spec
	}
	if out.Status.State == swarm.TaskStateNew && out.Status.Timestamp.IsZero() {
		out.Status.Timestamp = out.Meta.CreatedAt
	}
	for _, p := range toPorts(v.GetPorts()) { // of mode ingress a service tells
		if p.PublishMode == swarm.PortConfigPublishModeHost {
			out.Status.PortStatus.Ports = append(out.Status.PortStatus.Ports, p)
		}
	}
	for _, n := range v.GetNetworks() {
		out.NetworksAttachments = append(out.NetworksAttachments, w.attachment(n))
	}
	return out
}

func (w *taskWords) attachment(n *controlpb.NetworkAddress) swarm.NetworkAttachment {
	if w.subnets == nil {
		all, _ := w.q.api.ListNetworks(w.q.Context(), nil) // who may not list them is told addresses alone
		w.subnets = toSubnets(all)
	}
	out := swarm.NetworkAttachment{Network: swarm.Network{ID: n.GetNetworkId(), Spec: swarm.NetworkSpec{
		Annotations: swarm.Annotations{Name: n.GetNetworkName(), Labels: map[string]string{}}, Scope: scopeSwarm}}}
	for _, text := range n.GetAddresses() {
		a, err := netip.ParseAddr(text)
		if err != nil {
			continue
		}
		bits := a.BitLen()
		for _, p := range w.subnets[n.GetNetworkId()] {
			if p.Contains(a) {
				bits = p.Bits()
			}
		}
		out.Addresses = append(out.Addresses, netip.PrefixFrom(a, bits))
	}
	return out
}

// toSubnets are the subnets of networks, by the networks' ids.
func toSubnets(all []*controlpb.NetworkDetail) map[string][]netip.Prefix {
	out := map[string][]netip.Prefix{}
	for _, d := range all {
		for _, s := range d.GetNetwork().GetSubnets() {
			if p, err := netip.ParsePrefix(s.GetSubnet()); err == nil {
				out[d.GetNetwork().GetId()] = append(out[d.GetNetwork().GetId()], p)
			}
		}
	}
	return out
}

func toTaskStatus(st *schedulerpb.TaskStatus) swarm.TaskStatus {
	out := swarm.TaskStatus{Timestamp: moment(st.GetAt()), State: swarm.TaskState(taskState(st.GetState())), Message: st.GetMessage(), Err: st.GetError()}
	if st.GetContainerId() != "" || st.GetExitCode() != 0 {
		out.ContainerStatus = &swarm.ContainerStatus{ContainerID: st.GetContainerId(), ExitCode: int(st.GetExitCode())}
	}
	if out.Err == "" && st.GetState() == schedulerpb.TaskState_TASK_STATE_PENDING {
		out.Err = st.GetMessage() // why it waits is told where people look
	}
	return out
}

// taskState is a state as Docker calls it: by the same name.
func taskState(s schedulerpb.TaskState) string {
	if s == schedulerpb.TaskState_TASK_STATE_UNSPECIFIED {
		return string(swarm.TaskStateNew)
	}
	return lower(s.String(), "TASK_STATE_")
}
