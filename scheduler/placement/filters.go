package placement

import (
	"fmt"
	"slices"

	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/confine"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// refuses applies the filters in the order in which an operator would ask and
// returns the first reason against one more task of r, or nil. own is how many
// tasks of the service the node has, added how many of r are already meant for
// it and not yet counted.
func (i *nodeInfo) refuses(r *Request, own, added int) *reason {
	if added > 0 {
		// What does not depend on the tasks there was asked for the first one.
		return i.fullReason(r, own, added)
	}
	if why := i.barred(r); why != nil {
		return why
	}
	return i.fullReason(r, own, 0)
}

// barred is why the node cannot run a task of r, however empty it is.
func (i *nodeInfo) barred(r *Request) *reason {
	if i.closed != nil {
		return i.closed
	}
	if why := constraintReason(r, i.node); why != nil {
		return why
	}
	if why := platformReason(r, i.node); why != nil {
		return why
	}
	if r.mesh && i.unmeshed != nil {
		return i.unmeshed
	}
	return needReason(r, i.node)
}

// needReason keeps tasks away from a node that lacks what their networks or
// containers need.
func needReason(r *Request, n *schedulerpb.Node) *reason {
	for _, name := range r.features {
		i := slices.IndexFunc(n.GetDescription().GetFeatures(), func(f *taskpb.Feature) bool { return f.GetName() == name })
		if i < 0 {
			return lacks(7, "the feature "+name+confine.Remedy(name))
		}
		if !n.GetDescription().GetFeatures()[i].GetPresent() {
			return &reason{7, "cannot use " + name + " (node inspect says why)", "cannot use " + name + " (node inspect says why)"}
		}
	}
	return nil
}

func stateReason(n *schedulerpb.Node) *reason {
	switch n.GetState() {
	case schedulerpb.NodeState_NODE_STATE_READY:
	case schedulerpb.NodeState_NODE_STATE_DOWN:
		return same(1, "down")
	case schedulerpb.NodeState_NODE_STATE_NOT_READY:
		if why := featureReason(n); why != nil {
			return why
		}
		return same(0, "not ready")
	default:
		return same(0, "not ready")
	}
	switch store.Effective(n) {
	case store.Active:
		return nil
	case store.Drain:
		return same(3, "drained")
	}
	return same(2, "paused")
}

// featureReason keeps tasks away from a node that said it cannot run them.
func featureReason(n *schedulerpb.Node) *reason {
	for _, f := range n.GetDescription().GetFeatures() {
		if f.GetRequired() && !f.GetPresent() {
			return lacks(4, fmt.Sprintf("the required feature %s", f.GetName()))
		}
	}
	return nil
}

// meshReason keeps tasks whose networks span nodes away from a node that would
// start them without: one of a version that knows no networks says nothing of a
// mesh, and one that cannot make tunnels says so.
func meshReason(n *schedulerpb.Node) *reason {
	if inFIPS(n) {
		return &reason{7, "in FIPS mode, without tunnels for networks: " + meshspec.NoMeshInFIPS, "in FIPS mode, without tunnels for networks: " + meshspec.NoMeshInFIPS}
	}
	for _, f := range n.GetDescription().GetFeatures() {
		switch {
		case f.GetName() != meshspec.MeshFeature:
		case f.GetPresent():
			return nil
		default:
			return &reason{7, "cannot make tunnels for networks: see node inspect", "cannot make tunnels for networks: see node inspect"}
		}
	}
	return &reason{7, "is not part of the mesh that its networks need", "are not part of the mesh that its networks need"}
}

func inFIPS(n *schedulerpb.Node) bool {
	return slices.ContainsFunc(n.GetDescription().GetFeatures(), func(f *taskpb.Feature) bool { return f.GetName() == meshspec.FIPSFeature })
}

func constraintReason(r *Request, n *schedulerpb.Node) *reason {
	for _, c := range r.constraints {
		value, ok := attribute(n, c)
		switch has := ok && value == c.Value; {
		case has != c.Not:
		case c.Attribute == spec.NodeLabel && c.Not:
			return &reason{5, "has label " + c.Label + "=" + c.Value, "have label " + c.Label + "=" + c.Value}
		case c.Attribute == spec.NodeLabel:
			return lacks(5, "label "+c.Label+"="+c.Value)
		default:
			return &reason{5, "does not match " + c.String(), "do not match " + c.String()}
		}
	}
	return nil
}

func attribute(n *schedulerpb.Node, c spec.Constraint) (string, bool) {
	switch c.Attribute {
	case spec.NodeID:
		return n.GetId(), true
	case spec.NodeHostname:
		return n.GetDescription().GetHostname(), true
	case spec.NodeOS:
		return n.GetDescription().GetOs(), true
	case spec.NodeArch:
		return n.GetDescription().GetArch(), true
	case spec.NodeRole:
		if n.GetManager() {
			return "manager", true
		}
		return "worker", true
	}
	v, ok := n.GetLabels()[c.Label]
	return v, ok
}

// value is what a node has of what tasks are spread over; those that have nothing are
// alike.
func value(n *schedulerpb.Node, p spec.Preference) string {
	v, _ := attribute(n, spec.Constraint{Attribute: p.Attribute, Label: p.Label})
	return v
}

// platformReason compares only where both sides are known.
func platformReason(r *Request, n *schedulerpb.Node) *reason {
	d := n.GetDescription()
	if len(r.platforms) == 0 || d.GetOs() == "" || d.GetArch() == "" {
		return nil
	}
	own := d.GetOs() + "/" + d.GetArch()
	for _, p := range r.platforms {
		if p == own {
			return nil
		}
	}
	return &reason{6, "is " + own + ", for which there is no image", "are " + own + ", for which there is no image"}
}

// fullReason looks at what the tasks on a node use up.
func (i *nodeInfo) fullReason(r *Request, own, added int) *reason {
	if r.maxPerNode > 0 && own+added >= r.maxPerNode {
		text := fmt.Sprintf("%d of it, as many as one node may have", r.maxPerNode)
		return &reason{8, "has " + text, "have " + text}
	}
	if i.live+added >= MaxTasksPerNode {
		text := fmt.Sprintf("%d tasks, as many as a node takes", MaxTasksPerNode)
		return &reason{8, "has " + text, "have " + text}
	}
	have := i.node.GetDescription().GetResources()
	n := int64(added)
	if r.nanoCPUs > 0 && !fits(have.GetNanoCpus()-i.nanoCPUs, r.nanoCPUs, n) {
		return lacks(9, fmt.Sprintf("%g free cores", float64(r.nanoCPUs)/1e9))
	}
	if r.memory > 0 && !fits(have.GetMemoryBytes()-i.memory, r.memory, n) {
		return lacks(10, bytes(r.memory)+" of free memory")
	}
	for _, g := range r.generic {
		if !fits(i.free(g.GetKind()), g.GetCount(), n) {
			return lacks(11, fmt.Sprintf("%d free %s", g.GetCount(), g.GetKind()))
		}
	}
	for _, p := range r.ports {
		if added > 0 || i.portTaken(p) {
			text := fmt.Sprintf("port %d/%s in use", p.GetPublished(), spec.ProtocolName(p.GetProtocol()))
			return &reason{12, "has " + text, "have " + text}
		}
	}
	return nil
}

// fits reports whether one more of each fits beside n, without overflow.
func fits(free, each, n int64) bool { return free >= each && free/each > n }

func bytes(n int64) string {
	for _, u := range []struct {
		size int64
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= u.size {
			return fmt.Sprintf("%.4g %s", float64(n)/float64(u.size), u.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}
