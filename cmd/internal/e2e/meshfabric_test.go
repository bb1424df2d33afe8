package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestMeshFabric: one connection between containers on two hosts lives through a
// change of key that an operator asks for and through a host's change of address;
// and netd's end without a manager is over soon.
func TestMeshFabric(t *testing.T) {
	t.Parallel()
	c := up(t, "fabric", 1, 2)
	c.load()
	o := &overlayStory{cluster: c}
	const m = "manager-1"
	o.ok(m, "network", "create", "back")
	o.ok(m, "service", "create", "--name", "web", "--network", "back", "--constraint", "node.hostname==worker-1", image)
	o.ok(m, "service", "create", "--name", "db", "--network", "back", "--constraint", "node.hostname==worker-2", image)
	o.web, o.db = o.task("web"), o.task("db")
	to := net.JoinHostPort(o.address(o.db, "back"), "80")
	var conn net.Conn
	eventually(t, 20*time.Second, func() string {
		var err error
		if conn, err = o.place(o.web).dial(t.Context(), "tcp", to); err != nil {
			return err.Error()
		}
		return ""
	})
	defer conn.Close()
	answers := bufio.NewReader(conn)
	ask := func(when string) {
		t.Helper()
		begun := time.Now()
		conn.SetDeadline(begun.Add(20 * time.Second))
		if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: db\r\n\r\n"); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		r, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatalf("%s: the connection did not live: %v", when, err)
		}
		r.Body.Close()
		t.Logf("%s: answered in %v", when, time.Since(begun).Round(time.Millisecond))
	}
	ask("at first")

	text := o.ok(m, "node", "inspect", "worker-2")
	for _, want := range []string{"WireGuard", "MTU 1420, UDP port 7946", "handshake", " in, ", "pre-shared key"} {
		if !strings.Contains(text, want) {
			t.Errorf("node inspect does not say %q:\n%s", want, text)
		}
	}
	o.ok(m, "node", "rotate-mesh-key", "worker-2")
	if now := o.ok(m, "node", "inspect", "worker-2"); wordAfter(now, ", key ") == wordAfter(text, ", key ") {
		t.Errorf("the key is the same:\n%s", now)
	}
	ask("after a change of key")
	if events := o.ok(m, "events", "--since", "5m", "--until", "0s"); !strings.Contains(events, "rotate-mesh-key") {
		t.Errorf("no event tells of it:\n%s", events)
	}
	o.refused(m, 1, "no node", nil, "node", "rotate-mesh-key", "nobody")

	old := o.host("worker-2").Address
	moved := old[:strings.LastIndexByte(old, '.')] + ".222"
	o.inHost("worker-2", "sh", "-ec", fmt.Sprintf("d=$(ip -4 route show default); ip addr del %s/24 dev eth0; ip addr add %s/24 dev eth0; ip route replace $d", old, moved))
	ask("after a change of address")
	eventually(t, 30*time.Second, func() string {
		if text := o.ok("worker-1", "status"); !strings.Contains(text, "at "+moved+":") {
			return "worker-1 does not know the new address:\n" + text
		}
		return ""
	})

	o.lab("stop", m)
	o.kill(o.host("worker-1"), "redoubt-netd")
	gone, p := time.Now(), o.place(o.web)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		fresh, err := p.dial(ctx, "tcp", to)
		cancel()
		if err == nil {
			fresh.Close()
			break
		}
		if time.Since(gone) > 30*time.Second {
			t.Fatalf("netd was killed without a manager, and nothing passes since: %v", err)
		}
	}
	t.Logf("netd killed without a manager: a new connection after %v", time.Since(gone).Round(time.Millisecond))
	ask("after netd was killed without a manager")
}
