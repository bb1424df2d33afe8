package cli

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

func (a *app) nodeMeshKeyCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rotate-mesh-key NODE...", Short: "Give nodes a new WireGuard key",
		Long: `rotate-mesh-key has a node make a new WireGuard key now, as it does by itself
once a day, and returns when that is in force. Connections through its tunnels
go on. A peer that cannot be reached to confirm it is left out once its session
is over.`,
		Example: `  redoubt node rotate-mesh-key worker-1`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.each(c.Context(), names, func(ctx context.Context, api *api, n string) (string, error) {
				r, err := api.RotateMeshKey(ctx, &controlpb.RotateMeshKeyRequest{Node: n})
				return r.GetId(), err
			})
		},
	}
}

// printTunnels shows a node's end of the tunnels, as it says itself.
func printTunnels(w io.Writer, v *controlpb.NodeView) {
	if v.MeshError != "" {
		fmt.Fprintf(w, "%-15s %s\n", "Mesh:", "not known: "+printable(v.MeshError))
	}
	m := v.Mesh
	if m == nil {
		return
	}
	fmt.Fprintf(w, "%-15s %s\n", "Mesh:", printable(meshText(m)))
	for _, d := range m.Degraded {
		fmt.Fprintf(w, "%-15s %s\n", "Degraded:", printable(d))
	}
	if len(m.Peers) > 0 {
		fmt.Fprintln(w, "Peers:")
	}
	for _, p := range m.Peers {
		fmt.Fprintf(w, "  %s\n", printable(meshPeerText(p)))
	}
	if m.LeftOut > 0 {
		fmt.Fprintf(w, "  and %d more, of which nothing is worse: `redoubt status` on the node has them\n", m.LeftOut)
	}
}

func meshText(m *schedulerpb.MeshState) string {
	if m.Interface == "" {
		return "no interface yet"
	}
	text := fmt.Sprintf("%s, %s WireGuard", m.Interface, m.Driver)
	if m.Mode != "" && m.Mode != m.Driver {
		text += ", " + m.Mode
	}
	text += fmt.Sprintf(", MTU %d, UDP port %d", m.Mtu, m.ListenPort)
	if len(m.PublicKey) > 0 {
		text += fmt.Sprintf(", key %s for %s", base64.StdEncoding.EncodeToString(m.PublicKey)[:8], time.Duration(m.OwnKeyNs).Round(time.Second))
	}
	if m.ChangingKey {
		text += " and being changed"
	}
	return text
}

func meshPeerText(p *schedulerpb.MeshPeerState) string {
	text := p.NodeId + "  " + p.Address
	if p.Endpoint != "" {
		text += "  at " + p.Endpoint
	}
	if p.HandshakeNs != nil {
		text += fmt.Sprintf("  handshake %s ago, %s in, %s out", time.Duration(*p.HandshakeNs).Round(time.Second), units.HumanSize(float64(p.ReceivedBytes)), units.HumanSize(float64(p.SentBytes)))
	} else {
		text += "  no handshake yet"
	}
	if p.KeyNs != nil {
		text += fmt.Sprintf(", pre-shared key %s old", time.Duration(*p.KeyNs).Round(time.Second))
	}
	if p.Mtu != 0 {
		text += fmt.Sprintf(", MTU %d", p.Mtu)
	}
	switch {
	case p.Degraded != "":
		text += "  DEGRADED: " + p.Degraded
	case p.Error != "":
		text += "  (" + p.Error + ")"
	}
	return text
}
