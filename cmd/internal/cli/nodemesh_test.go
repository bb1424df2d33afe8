package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

func TestTunnelsOfANode(t *testing.T) {
	ago := func(d time.Duration) *int64 { return new(int64(d)) }
	for _, c := range []struct {
		name string
		view *controlpb.NodeView
		want []string
		not  string
	}{
		{name: "a node of before", view: &controlpb.NodeView{}, not: "Mesh"},
		{name: "one that does not answer", view: &controlpb.NodeView{MeshError: "the node\x1b is not connected"}, want: []string{"Mesh:           not known: the node is not connected\n"}, not: "Peers"},
		{name: "no interface", view: &controlpb.NodeView{Mesh: &schedulerpb.MeshState{}}, want: []string{"no interface yet"}, not: "Peers"},
		{
			name: "one in use", view: &controlpb.NodeView{Mesh: &schedulerpb.MeshState{
				Interface: "rdtw0", Driver: "userspace", Mode: "batch", Mtu: 1420, ListenPort: 7946, PublicKey: []byte(strings.Repeat("k", 32)), OwnKeyNs: int64(90 * time.Second), ChangingKey: true,
				Degraded: []string{"rules of network a"}, LeftOut: 3,
				Peers: []*schedulerpb.MeshPeerState{
					{NodeId: "n1", Address: "10.0.0.1", Endpoint: "192.0.2.1:7946", HandshakeNs: ago(5 * time.Second), ReceivedBytes: 2000, SentBytes: 1000, KeyNs: ago(time.Minute), Mtu: 1370},
					{NodeId: "n2", Address: "10.0.0.2", Degraded: "no key", Error: "not said"},
					{NodeId: "n3", Address: "10.0.0.3", Error: "refused"},
				},
			}},
			want: []string{
				"rdtw0, userspace WireGuard, batch, MTU 1420, UDP port 7946, key a2tra2tr for 1m30s and being changed\n",
				"Degraded:       rules of network a\n",
				"  n1  10.0.0.1  at 192.0.2.1:7946  handshake 5s ago, 2kB in, 1kB out, pre-shared key 1m0s old, MTU 1370\n",
				"  n2  10.0.0.2  no handshake yet  DEGRADED: no key\n",
				"  n3  10.0.0.3  no handshake yet  (refused)\n",
				"  and 3 more, of which nothing is worse",
			},
			not: "not said",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b strings.Builder
			printTunnels(&b, c.view)
			for _, want := range c.want {
				if !strings.Contains(b.String(), want) {
					t.Errorf("%q lacks %q", b.String(), want)
				}
			}
			if c.not != "" && strings.Contains(b.String(), c.not) {
				t.Errorf("%q has %q", b.String(), c.not)
			}
		})
	}
}
