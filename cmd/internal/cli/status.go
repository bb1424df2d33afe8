package cli

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/version"
	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

func (a *app) statusCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use:   "status",
		Short: "Show this node and, on a manager, the cluster",
		Long: `status shows what this node knows of itself and, on a manager, the cluster and
what is wrong with it; by a context the cluster alone. It ends with exit code 4 on a locked manager, 5 on a
removed node and 6 when the cluster has no leader, so scripts can use it.`,
		Example: `  redoubt status
  redoubt status --format json`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error { return a.runStatus(ctx, api, &out) })
		},
	}
	out.flags(c, false)
	return c
}

func (a *app) runStatus(ctx context.Context, c *api, out *output) error {
	if c.Remote() {
		cluster, err := c.GetStatus(ctx, &controlpb.GetStatusRequest{})
		if err != nil {
			return err
		}
		byName(cluster)
		if out.structured() {
			return out.objects(a.Stdout, map[string]json.RawMessage{"cluster": protoJSON(cluster)})
		}
		printCluster(a.Stdout, cluster)
		return nil
	}
	local, err := c.LocalStatus(ctx, &controlpb.LocalStatusRequest{})
	if err != nil {
		return err
	}
	var cluster *controlpb.GetStatusResponse
	switch local.Phase {
	case controlpb.NodePhase_NODE_PHASE_LOCKED:
		err = apierr.Locked()
	case controlpb.NodePhase_NODE_PHASE_NO_QUORUM:
		err = apierr.NoLeader()
	case controlpb.NodePhase_NODE_PHASE_BROKEN:
		err = apierr.State("restore the file, or `redoubt leave --force` and join again", "this node cannot start: %s", local.Message)
	case controlpb.NodePhase_NODE_PHASE_REMOVED:
		err = apierr.Removed()
	case controlpb.NodePhase_NODE_PHASE_ACTIVE:
		if local.Role == profilepb.Role_ROLE_MANAGER {
			cluster, err = c.GetStatus(ctx, &controlpb.GetStatusRequest{})
			byName(cluster)
		}
	}
	if out.structured() {
		v := map[string]json.RawMessage{"node": protoJSON(local)}
		if cluster != nil {
			v["cluster"] = protoJSON(cluster)
		}
		if perr := out.objects(a.Stdout, v); perr != nil {
			return perr
		}
		return err
	}
	printLocal(a.Stdout, local, time.Now())
	if cluster != nil {
		printCluster(a.Stdout, cluster)
	}
	return err
}

func byName(s *controlpb.GetStatusResponse) {
	slices.SortFunc(s.GetManagers(), func(a, b *controlpb.ManagerStatus) int {
		return cmp.Or(strings.Compare(a.GetName(), b.GetName()), strings.Compare(a.GetNodeId(), b.GetNodeId()))
	})
}

func printLocal(w io.Writer, s *controlpb.LocalStatusResponse, now time.Time) {
	phase := enumName(s.Phase, "NODE_PHASE_")
	switch {
	case s.Phase == controlpb.NodePhase_NODE_PHASE_EMPTY:
		phase = "in no cluster (`redoubt init` or `redoubt join`)"
	case s.Phase == controlpb.NodePhase_NODE_PHASE_UNSPECIFIED:
		phase = "starting"
	case !strings.HasPrefix(s.Message, phase):
		phase = strings.TrimSpace(phase + "  " + s.Message)
	default:
		phase = s.Message // it begins with the state
	}
	field(w, "State", phase)
	field(w, "Node", s.NodeId)
	field(w, "Cluster", s.ClusterId)
	if s.Role != profilepb.Role_ROLE_UNSPECIFIED {
		field(w, "Role", enumName(s.Role, "ROLE_"))
	}
	if s.LeafNotAfter != 0 {
		field(w, "Certificate", "expires "+in(time.Unix(s.LeafNotAfter, 0), now))
	}
	if s.Phase == controlpb.NodePhase_NODE_PHASE_ACTIVE && !s.Session {
		field(w, "Session", "none: no manager has answered this node's agent yet")
	}
	if len(s.TpmEk) > 0 {
		field(w, "TPM", hex.EncodeToString(s.TpmEk))
	}
	if s.Approval != "" {
		field(w, "Joining", "waits for `redoubt node approve "+s.Approval+"` on a manager")
	}
	printMesh(w, s.Mesh)
	field(w, "Version", s.Version)
	for _, f := range s.Features {
		switch {
		case !f.Present && f.Required:
			field(w, "Missing", f.Name+": "+f.Detail)
		case f.Present && f.Name == meshspec.FIPSFeature:
			field(w, "FIPS", f.Detail)
		}
	}
	field(w, "Protections", strings.Join(s.Protections, ", "))
}

// printMesh shows this node's end of the tunnels.
func printMesh(w io.Writer, m *schedulerpb.MeshState) {
	if m == nil {
		return
	}
	field(w, "Mesh", m.Address+"  "+meshText(m))
	for _, p := range m.Peers {
		field(w, "Peer", meshPeerText(p))
	}
	for _, d := range m.Degraded {
		field(w, "Degraded", d)
	}
}

func printCluster(w io.Writer, s *controlpb.GetStatusResponse) {
	field(w, "Nodes", fmt.Sprintf("%d ready of %d", s.NodesReady, s.Nodes))
	field(w, "Services", fmt.Sprintf("%d, %d of %d tasks running", s.Services, s.TasksRunning, s.TasksWanted))
	autolock := "off"
	if s.Autolock {
		autolock = fmt.Sprintf("on, slot epoch %d", s.SlotEpoch)
	}
	field(w, "Autolock", autolock)
	root := strings.Join(s.LocalRoot, ", ")
	if len(s.LocalRoot) > 1 {
		root += " (as long as no person is)"
	}
	field(w, "Local root", root)
	for _, m := range s.Managers {
		state := "reachable"
		switch {
		case m.Leader:
			state = "leader"
		case m.Locked:
			state = "locked"
		case !m.Reachable:
			state = "unreachable"
		}
		if !m.Voter {
			state += ", no voter yet"
		}
		field(w, "Manager", nodeLabel(m.Name, m.NodeId)+"  "+m.Address+"  "+state)
	}
	for _, warn := range s.Warnings {
		field(w, "Warning", warn)
	}
}

func field(w io.Writer, name, value string) {
	if value != "" {
		fmt.Fprintf(w, "%-12s %s\n", name+":", printable(value))
	}
}

func (a *app) versionCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use:     "version",
		Short:   "Show the version of this command and of the node",
		Example: `  redoubt version`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			v := map[string]string{"client": version.String()}
			// A node that does not answer is no failure here: the question was
			// about this command first.
			node := a.with(c.Context(), func(ctx context.Context, api *api) error {
				s, err := api.LocalStatus(ctx, &controlpb.LocalStatusRequest{})
				v["node"] = s.GetVersion()
				return err
			})
			if exitCode(node) == ExitUsage {
				return node
			}
			if node != nil {
				delete(v, "node")
			}
			if out.structured() {
				return out.objects(a.Stdout, v)
			}
			field(a.Stdout, "Client", v["client"])
			if node != nil {
				v["node"] = "not known (" + node.Error() + ")"
			}
			field(a.Stdout, "Node", v["node"])
			return nil
		},
	}
	out.flags(c, false)
	return c
}
