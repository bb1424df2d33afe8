package mesh

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/portname"
)

// What containers reach is told again when it is another thing; where nobody said
// anything, netd keeps what it has; managers of before know of nothing to be held
// back.
func TestReachChanges(t *testing.T) {
	n := &netd{}
	var reach Reach
	said := false
	dns := netip.MustParseAddr("192.0.2.53")
	l, err := NewLocal(LocalConfig{Netd: n.serve(t), Subnet: netip.MustParsePrefix("172.30.0.0/24"), DNS: []netip.Addr{dns}, Reach: func() (Reach, bool) { return reach, said }})
	if err != nil {
		t.Fatal(err)
	}
	synced := func() {
		t.Helper()
		if ok, err := l.Check(t.Context()); ok || err != nil {
			t.Fatalf("check: %v %v", ok, err)
		}
		if _, err := l.Sync(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if ok, err := l.Check(t.Context()); !ok || err != nil {
			t.Errorf("check: %v %v", ok, err)
		}
	}
	if synced(); n.got.Reach != nil {
		t.Errorf("nobody said %v", n.got.Reach)
	}
	said, reach = true, Reach{Nodes: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}, Published: []portname.Port{{Number: 80}, {UDP: true, Number: 80}}}
	if synced(); strings.Join(n.got.Reach.GetNodes(), " ") != "192.0.2.1 192.0.2.2" || strings.Join(n.got.Reach.GetPublished(), " ") != "tcp/80 udp/80" ||
		strings.Join(n.got.Reach.GetResolvers(), " ") != "192.0.2.53" {
		t.Errorf("netd was told %v", n.got.Reach)
	}
	reach.Published = reach.Published[:1]
	if synced(); len(n.got.Reach.GetPublished()) != 1 {
		t.Errorf("netd was told %v", n.got.Reach)
	}
	said = false
	if ok, err := l.Check(t.Context()); !ok || err != nil {
		t.Errorf("what is not known any more changes something: %v %v", ok, err)
	}
	said, reach = true, Reach{}
	if synced(); n.got.Reach == nil || len(n.got.Reach.GetNodes()) != 0 {
		t.Errorf("managers of before: %v", n.got.Reach)
	}
}

// A container cannot fill the log.
func TestStrayedIsSaidSeldom(t *testing.T) {
	var b bytes.Buffer
	log, s, at := slog.New(slog.NewTextHandler(&b, nil)), strayed{}, time.Unix(1e9, 0)
	for _, step := range []struct {
		packets uint64
		after   time.Duration
		says    string
	}{{0, 0, ""}, {5, time.Second, "packets=5"}, {9, time.Second, ""}, {9, strayedEvery, "packets=4"}, {9, strayedEvery, ""}, {2, strayedEvery, "packets=2"}} {
		at = at.Add(step.after)
		b.Reset()
		if s.seen(step.packets, at, log); (b.Len() > 0) != (step.says != "") || !strings.Contains(b.String(), step.says) {
			t.Errorf("%d packets: %q", step.packets, b.String())
		}
	}
}
