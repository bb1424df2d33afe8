package cli

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

func (a *app) nodeCmd() *cobra.Command {
	c := &cobra.Command{Use: "node", Short: "See and manage the cluster's machines"}
	group(c)
	c.AddCommand(a.nodeLsCmd(), a.nodeInspectCmd(), a.nodeUpdateCmd(), a.nodeRmCmd(), a.nodeRevokeCmd(), a.nodePromoteCmd(), a.nodeDemoteCmd(), a.nodeMeshKeyCmd(), a.nodePendingCmd(), a.nodeDecideCmd(true), a.nodeDecideCmd(false))
	return c
}

// nodeJSON is one node in `node ls --format json`.
type nodeJSON struct {
	ID           string `json:"id"`
	Hostname     string `json:"hostname"`
	Role         string `json:"role"`
	State        string `json:"state"`
	Availability string `json:"availability"`
	Leader       bool   `json:"leader"`
	Reachable    bool   `json:"reachable"`
	Locked       bool   `json:"locked"`
	// OpensItself: autolock is off.
	OpensItself bool   `json:"opens_itself,omitempty"`
	Address     string `json:"address"`
	Version     string `json:"version"`
	Self        bool   `json:"self"`
	// Clock is how far its clock is ahead of the leader's, where that is known.
	Clock string `json:"clock,omitempty"`
	// Message says why it is not ready.
	Message string `json:"message,omitempty"`
	// What tasks reserve of it, of how much it says to have, and how many tasks
	// are on it.
	Tasks          uint32  `json:"tasks"`
	CPUReserved    float64 `json:"cpu_reserved"`
	CPUTotal       float64 `json:"cpu_total"`
	MemoryReserved int64   `json:"memory_reserved"`
	MemoryTotal    int64   `json:"memory_total"`
}

func newNodeJSON(v *controlpb.NodeView, self string) nodeJSON {
	n := nodeJSON{
		ID: v.Id, Hostname: v.Name, Role: enumName(v.Role, "ROLE_"),
		State:        enumName(v.GetNode().GetState(), "NODE_STATE_"),
		Availability: enumName(v.Effective, "AVAILABILITY_"),
		Leader:       v.GetManager().GetLeader(), Reachable: v.GetManager().GetReachable(), Locked: v.GetManager().GetLocked(), OpensItself: v.GetManager().GetOpensItself(),
		Address: v.GetNode().GetAddress(), Version: v.GetNode().GetDescription().GetRedoubtVersion(),
		Self: v.Id == self, Message: v.GetNode().GetMessage(), Clock: clockText(v.GetClock()),
	}
	if v.GetRevokedAt() != 0 {
		n.State, n.Availability, n.Message = "revoked", "", "since "+time.Unix(v.GetRevokedAt(), 0).UTC().Format(time.RFC3339)+"; `redoubt node rm` takes it off the list"
	}
	if a := v.GetManager().GetAddress(); a != "" {
		n.Address = a
	}
	all, used := v.GetNode().GetDescription().GetResources(), v.GetReserved()
	n.Tasks, n.CPUTotal, n.MemoryTotal = v.GetTasks(), cpus(all.GetNanoCpus()), all.GetMemoryBytes()
	n.CPUReserved, n.MemoryReserved = cpus(used.GetNanoCpus()), used.GetMemoryBytes()
	return n
}

func cpus(nano int64) float64 { return float64(nano) / 1e9 }

// cpuText and memoryText are what is reserved of what there is; a node that did
// not say yet what it has shows nothing.
func (n nodeJSON) cpuText() string {
	if n.CPUTotal == 0 {
		return ""
	}
	return fmt.Sprintf("%.4g/%.4g", n.CPUReserved, n.CPUTotal)
}

func (n nodeJSON) memoryText() string {
	if n.MemoryTotal == 0 {
		return ""
	}
	return units.CustomSize("%.3g%s", float64(max(n.MemoryReserved, 0)), 1024, binaryUnits) + "/" +
		units.CustomSize("%.3g%s", float64(max(n.MemoryTotal, 0)), 1024, binaryUnits)
}

var binaryUnits = []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}

// clockText is an offset, as far as it is sure: "+1h0m0s", or "ok" where it is
// within a second.
func clockText(c *schedulerpb.ClockOffset) string {
	if c == nil {
		return ""
	}
	ahead := time.Duration(c.GetAheadNs())
	if ahead.Abs()-time.Duration(c.GetUnsureNs()) < time.Second {
		return "ok"
	}
	text := ahead.Abs().Round(time.Second).String()
	if ahead < 0 {
		return "-" + text
	}
	return "+" + text
}

// status is the state, with the reason where a node is up and yet not ready.
func (n nodeJSON) status() string {
	if n.State == "not ready" && n.Message != "" {
		return n.State + " (" + printable(n.Message) + ")"
	}
	return n.State
}

// managerStatus is what a manager is, and that it opens by itself where it does.
func (n nodeJSON) managerStatus() string {
	state := n.managerState()
	if state != "" && n.OpensItself {
		state += ", autolock off"
	}
	return state
}

func (n nodeJSON) managerState() string {
	switch {
	case n.Role != "manager", n.State == "revoked":
		return ""
	case n.Leader:
		return "leader"
	case n.Locked:
		return "locked"
	case n.Reachable:
		return "reachable"
	}
	return "unreachable"
}

func (a *app) nodeLsCmd() *cobra.Command {
	var out output
	var filter filterFlag
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List nodes",
		Example: `  redoubt node ls
  redoubt node ls --filter state=down --filter label=zone=a
  redoubt node ls --format 'table {{.Hostname}}\t{{.Tasks}}\t{{.CPUReserved}}\t{{.CPUTotal}}\t{{.MemoryReserved}}\t{{.MemoryTotal}}'`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListNodes(ctx, &controlpb.ListNodesRequest{})
				if err != nil {
					return err
				}
				r.Nodes = slices.DeleteFunc(r.Nodes, func(v *controlpb.NodeView) bool { return !nodeMatches(&filter, v) })
				return a.printNodes(&out, r)
			})
		},
	}
	out.flags(c, true)
	out.noTruncFlag(c)
	filter.add(c, "id", "name", "role=manager|worker", "state=ready|down|not ready|unknown|revoked",
		"availability=active|pause|drain", "label")
	return c
}

func nodeMatches(f *filterFlag, v *controlpb.NodeView) bool {
	n := newNodeJSON(v, "")
	return f.begins("id", n.ID) && f.begins("name", n.Hostname) && f.is("role", n.Role) && f.is("state", n.State) &&
		f.is("availability", n.Availability) && f.label(v.GetNode().GetLabels())
}

func (a *app) printNodes(out *output, r *controlpb.ListNodesResponse) error {
	var ids []string
	objects := []nodeJSON{}
	var rows [][]string
	for _, v := range r.Nodes {
		n := newNodeJSON(v, r.Self)
		ids, objects = append(ids, n.ID), append(objects, n)
		id := out.id(n.ID)
		if n.Self {
			id += " *"
		}
		rows = append(rows, []string{id, n.Hostname, n.status(), n.Availability, n.managerStatus(),
			fmt.Sprint(n.Tasks), n.cpuText(), n.memoryText(), n.Clock, n.Address, n.Version})
	}
	return out.list(a.Stdout, ids, objects,
		[]string{"ID", "HOSTNAME", "STATUS", "AVAILABILITY", "MANAGER STATUS", "TASKS", "CPUS", "MEMORY", "CLOCK", "ADDRESS", "VERSION"}, rows)
}

func (a *app) nodeInspectCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "inspect NODE...", Short: "Show what the cluster knows of nodes",
		Example: `  redoubt node inspect worker-1
  redoubt node inspect --format json worker-1`,
		Args: args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListNodes(ctx, &controlpb.ListNodesRequest{Nodes: names, Mesh: len(names) <= maxMeshNodes})
				if err != nil {
					return err
				}
				if out.structured() {
					return printProtos(a.Stdout, &out, r.Nodes)
				}
				for i, v := range r.Nodes {
					if i > 0 {
						fmt.Fprintln(a.Stdout)
					}
					printNode(a.Stdout, v, r.Self, time.Now())
				}
				return nil
			})
		},
	}
	out.flags(c, false)
	return c
}

// printNode is the long form for people; a missing kernel feature stands out.
func printNode(w io.Writer, v *controlpb.NodeView, self string, now time.Time) {
	n := newNodeJSON(v, self)
	d := v.GetNode().GetDescription()
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%-15s %s\n", name+":", printable(value))
		}
	}
	line("ID", n.ID)
	line("Hostname", n.Hostname)
	line("Role", n.Role)
	line("Status", strings.TrimSpace(n.State+" "+n.Message))
	if at := v.GetNode().GetDownSince(); at != 0 {
		line("Last heard", ago(time.Unix(0, at), now))
	}
	line("Availability", availabilityText(v))
	line("Drain", drainText(v, now))
	line("Manager status", n.managerStatus())
	line("Address", n.Address)
	line("Session from", sessionText(v, now))
	line("Mesh address", v.GetMeshAddress())
	printTunnels(w, v)
	if ek := v.GetTpmEk(); len(ek) > 0 {
		line("TPM", hex.EncodeToString(ek))
	}
	line("Labels", pairs(v.GetNode().GetLabels()))
	if v.JoinedAt != 0 {
		line("Joined", ago(time.Unix(v.JoinedAt, 0), now)+" with token "+v.TokenId)
	}
	if v.LeafNotAfter != 0 {
		line("Certificate", "expires "+in(time.Unix(v.LeafNotAfter, 0), now))
	}
	if c := v.GetClock(); c != nil {
		line("Clock", fmt.Sprintf("%v ahead of the leader's, sure to %v", time.Duration(c.GetAheadNs()).Round(time.Millisecond), time.Duration(c.GetUnsureNs()).Round(time.Microsecond)))
	}
	line("System", strings.TrimSpace(d.GetOs()+"/"+d.GetArch()+" "+d.GetKernel()))
	line("Runtime", d.GetRuntime())
	line("Redoubt", d.GetRedoubtVersion())
	if r := d.GetResources(); r != nil {
		amount := func(cpus, memory int64) string {
			return fmt.Sprintf("%g CPUs, %s memory", float64(max(cpus, 0))/1e9, units.BytesSize(float64(max(memory, 0))))
		}
		used := v.GetReserved()
		line("Resources", amount(r.NanoCpus, r.MemoryBytes))
		line("Reserved", fmt.Sprintf("%s by %d tasks", amount(used.GetNanoCpus(), used.GetMemoryBytes()), v.GetTasks()))
		line("Free", amount(r.NanoCpus-used.GetNanoCpus(), r.MemoryBytes-used.GetMemoryBytes()))
	}
	if st := d.GetStorage(); st != nil {
		line("Images", fmt.Sprintf("%d, %s packed", st.Images, units.BytesSize(float64(st.ImageBytes))))
		line("Disk", fmt.Sprintf("%s free of %s", units.BytesSize(float64(st.DiskFree)), units.BytesSize(float64(st.DiskBytes))))
		line("Collected", fmt.Sprintf("%d images and %d dead containers since rund started, %d dead are kept", st.ImagesRemoved, st.ContainersRemoved, st.DeadContainers))
		line("Storage", st.Message)
	}
	for _, v := range d.GetVolumes().GetInstances() {
		line("Volume", v.GetName()+" ("+v.GetId()+")")
	}
	if fs := d.GetFeatures(); len(fs) > 0 {
		fmt.Fprintln(w, "Features:")
		for _, f := range fs {
			state := "yes"
			if !f.Present {
				state = "no"
				if f.Required {
					state = "MISSING: tasks are refused here"
				}
			}
			fmt.Fprintf(w, "  %-20s %s\n", printable(f.Name), printable(strings.TrimSpace(state+"  "+f.Detail)))
		}
	}
	for _, ref := range slices.Sorted(maps.Keys(d.GetLoadedImages())) {
		line("Loaded image", ref+"@"+d.LoadedImages[ref])
	}
}

// sessionText tells where the node's session comes from, since when, and whether
// there was one elsewhere then.
func sessionText(v *controlpb.NodeView, now time.Time) string {
	n := v.GetNode()
	if n.GetAddressSince() == 0 {
		return n.GetAddress()
	}
	text := n.GetAddress() + ", first " + ago(time.Unix(0, n.GetAddressSince()), now)
	if before := n.GetAddressBefore(); before != "" {
		text += "; a session from " + before + " still lived then: unless the node moved, its key is in use elsewhere"
	}
	return text
}

// drainText tells how far a drain is.
func drainText(v *controlpb.NodeView, now time.Time) string {
	if v.Effective != schedulerpb.Availability_AVAILABILITY_DRAIN || v.GetTasks() == 0 {
		return ""
	}
	text := fmt.Sprintf("%d tasks are still there", v.GetTasks())
	if by := time.Unix(0, v.GetNode().GetDrainBy()); by.After(now) {
		text += ", killed " + in(by, now)
	}
	return text
}

// availabilityText shows what was set beside what is in force.
func availabilityText(v *controlpb.NodeView) string {
	set, eff := enumName(v.GetNode().GetAvailability(), "AVAILABILITY_"), enumName(v.Effective, "AVAILABILITY_")
	if set == eff || set == "unspecified" {
		return eff
	}
	return eff + " (set to " + set + ")"
}

func pairs(m map[string]string) string {
	var s []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		s = append(s, k+"="+m[k])
	}
	return strings.Join(s, ", ")
}
