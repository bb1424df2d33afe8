package cli

import (
	"strings"
	"testing"

	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
)

// TestPoolWarnings: a pool that this machine reaches otherwise is named with what
// is in its way; the default route and pools apart are not.
func TestPoolWarnings(t *testing.T) {
	four := routes4([]byte(`Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010000C0	0003	0	0	0	00000000	0	0	0
eth0	0000C80A	00000000	0001	0	0	0	0000FFFF	0	0	0
br0	000012C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
`))
	six := routes6([]byte(`fd000000000000000000000000000000 08 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001 wg0
fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001 eth0
`))
	pools := meshspec.DefaultPools("c")
	got := strings.Join(poolWarnings(pools, append(four, six...)), "\n")
	for _, want := range []string{"--network-pool 10.200.0.0/13 overlaps 10.200.0.0/16, which this machine reaches by eth0", "--network-pool6 fd", "--ingress-pool6 fd", "by wg0"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if strings.Contains(got, "--node-pool") || strings.Contains(got, "--ingress-pool ") {
		t.Errorf("pools that nothing is in the way of:\n%s", got)
	}
	if w := poolWarnings(pools, four[:1]); len(w) != 0 {
		t.Errorf("of the default route: %v", w)
	}
}
