package lab

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// reaches says whether a TCP connection from one host to the other, or from
// the machine where from is empty, is answered: refused is an answer. An
// answer is waited for patiently, its absence is not.
func reaches(t *testing.T, l *Lab, from, to string, expected bool) bool {
	t.Helper()
	patience := 400 * time.Millisecond
	if expected {
		patience = 10 * time.Second
	}
	h, err := l.Host(to)
	if err != nil {
		t.Fatal(err)
	}
	if from == "" {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := new(net.Dialer).DialContext(ctx, "tcp", l.Addr(h).String()+":1")
		return err != nil && strings.Contains(err.Error(), "refused")
	}
	_, code := run(t, l, from, fmt.Sprintf("timeout %.1f", patience.Seconds())+" bash -c 'echo >/dev/tcp/"+to+"/1' 2>&1 | grep -q refused")
	return code == 0
}

func TestCutAndHeal(t *testing.T) {
	l := hosts(t, "t-cut", 3, 1)
	host := func(name string) Host {
		h, err := l.Host(name)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	m1, m2, m3 := host("manager-1"), host("manager-2"), host("manager-3")
	want := func(step string, answered map[[2]string]bool, states map[string]Network) {
		t.Helper()
		for pair, ok := range answered {
			if got := reaches(t, l, pair[0], pair[1], ok); got != ok {
				t.Errorf("%s: %q to %s is answered: %v, want %v", step, pair[0], pair[1], got, ok)
			}
		}
		for name, state := range states {
			if got := l.NetworkOf(host(name)); got != state {
				t.Errorf("%s: %s is %s, want %s", step, name, got, state)
			}
		}
	}
	inside := func(name string) string {
		out, _ := run(t, l, name, "ip -o addr show eth0 scope global; ip route")
		return strings.ReplaceAll(out, " linkdown", "")
	}
	before := inside("manager-1")

	// An open connection neither breaks nor delivers while its host is cut.
	listener, err := net.Listen("tcp", l.Gateway().String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	run(t, l, "manager-1", "setsid bash -c 'exec 3<>/dev/tcp/"+l.Gateway().String()+"/"+port+"; cat <&3 >&3' >/dev/null 2>&1 &")
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	echo := func(limit time.Duration) error {
		_ = conn.SetDeadline(time.Now().Add(limit))
		if _, err := conn.Write([]byte("x")); err != nil {
			return err
		}
		_, err := conn.Read(make([]byte, 1))
		return err
	}
	if err := echo(10 * time.Second); err != nil {
		t.Fatal(err)
	}

	for range 2 { // idempotent
		if err := l.Cut([]Host{m1}, false); err != nil {
			t.Fatal(err)
		}
	}
	want("cut 1", map[[2]string]bool{
		{"", "manager-1"}: false, {"manager-2", "manager-1"}: false, {"manager-1", "manager-2"}: false, {"manager-2", "manager-3"}: true,
	}, map[string]Network{"manager-1": NetworkCut, "manager-2": NetworkUp})
	if err, ok := echo(300 * time.Millisecond).(net.Error); !ok || !err.Timeout() {
		t.Errorf("a connection into a cut host: %v, want a time-out", err)
	}

	if err := l.Cut([]Host{m1, m2}, true); err != nil {
		t.Fatal(err)
	}
	if err := l.Cut([]Host{m1, m2}, true); err != nil { // again: another island, the first is gone
		t.Fatal(err)
	}
	want("cut 1 and 2 together", map[[2]string]bool{
		{"", "manager-1"}: false, {"manager-2", "manager-1"}: true, {"manager-3", "manager-1"}: false, {"manager-1", "worker-1"}: false,
	}, map[string]Network{"manager-1": NetworkCut, "manager-2": NetworkCut, "manager-3": NetworkUp})

	if err := l.Heal([]Host{m2}); err != nil {
		t.Fatal(err)
	}
	want("heal 2", map[[2]string]bool{{"manager-2", "manager-1"}: false, {"manager-2", "manager-3"}: true},
		map[string]Network{"manager-1": NetworkCut, "manager-2": NetworkUp})
	for range 2 {
		if err := l.Heal(nil); err != nil {
			t.Fatal(err)
		}
	}
	want("heal", map[[2]string]bool{{"", "manager-1"}: true, {"manager-2", "manager-1"}: true, {"manager-1", "worker-1"}: true},
		map[string]Network{"manager-1": NetworkUp})
	if after := inside("manager-1"); after != before {
		t.Errorf("the host's own network changed from\n%s\nto\n%s", before, after)
	}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Errorf("the connection did not survive the cut: %v", err)
	}

	if err := l.Cut(nil, false); err == nil {
		t.Error("cut nothing")
	}
	if err := l.Kill(t.Context(), m3, true); err != nil {
		t.Fatal(err)
	}
	if err := l.Cut([]Host{m2, m3}, false); err == nil || !strings.Contains(err.Error(), "manager-3 is off: start it with `redoubt lab start manager-3`") {
		t.Errorf("cut of a host without power: %v", err)
	}
	want("one of two is off", nil, map[string]Network{"manager-2": NetworkUp, "manager-3": NetworkOff})
	if err := l.Heal(nil); err != nil {
		t.Errorf("heal with a host off: %v", err)
	}
	if err := l.Cut([]Host{m1, m2}, true); err != nil { // Down removes the island, too
		t.Fatal(err)
	}
}
