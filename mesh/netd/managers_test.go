package netd

import (
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestManagersRefusals(t *testing.T) {
	for _, s := range []string{"", "192.0.2.1", "192.0.2.1:0", "192.0.2.1:65536", ":2377", "192.0.2.1:https", "192.0.2.1:-1", "a:b:1"} {
		if m, err := parseManagers([]string{s}); err == nil {
			t.Errorf("%q: %v", s, m)
		}
	}
	if _, err := parseManagers(slices.Repeat([]string{"192.0.2.1:1"}, maxManagers+1)); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("too many: %v", err)
	}
}

func FuzzManagers(f *testing.F) {
	f.Add("192.0.2.1:7000")
	f.Add("[2001:db8::1]:443")
	f.Add("manager-1.example:443")
	f.Add("[::ffff:192.0.2.1]:443")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parseManagers([]string{s, s})
		if err != nil {
			return
		}
		if !slices.Contains(m.everywhere, managementPort) || !slices.Contains(m.everywhere, peerPort) {
			t.Fatalf("%q: the default port is open", s)
		}
		if len(m.everywhere)+len(m.at) > 3 {
			t.Fatalf("%q: %v", s, m)
		}
		for _, a := range m.at {
			if !a.Addr().Is4() || a.Port() >= wellKnown {
				t.Fatalf("%q: %v", s, a)
			}
		}
	})
}

// Managers may listen elsewhere than on 2377: what no container reaches follows
// them, with real packets.
func TestManagersOnOtherPorts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.box(1)
	for _, port := range []string{"2377", "7946", "7377", "443", "8443", "8080"} {
		w.serve(w.outside, "tcp", "0.0.0.0:"+port)
		w.serve(w.other, "tcp", "0.0.0.0:"+port)
	}
	declare := func(managers ...string) {
		t.Helper()
		req := w.request(a)
		req.Managers = managers
		w.mustApply(req)
	}
	// at says what holds for a port of both hosts.
	at := func(outside, other bool, ports ...string) {
		t.Helper()
		var wg sync.WaitGroup
		for _, port := range ports {
			for addr, open := range map[string]bool{outsideIP + ":" + port: outside, otherIP + ":" + port: other} {
				wg.Go(func() {
					if open {
						w.reaches(a.ns, "tcp", addr, "")
					} else {
						w.cannotReach(a.ns, "tcp", addr)
					}
				})
			}
		}
		wg.Wait()
	}

	declare()
	at(false, false, "2377", "7946")
	at(true, true, "7377", "443", "8443", "8080")

	// A port of its own is shut on each of the managers' addresses, named or not;
	// a well-known one only where the manager is; a name's everywhere.
	declare(outsideIP+":7377", outsideIP+":443", "manager-1.example:8443", "[2001:db8::1]:80")
	at(false, false, "2377", "7946", "7377", "8443")
	at(false, true, "443")
	at(true, true, "8080")

	// netd ends and is started again: the same holds before and after it was
	// told anew.
	w.n.Close()
	w.n = w.start()
	at(false, false, "7377")
	declare(outsideIP + ":8080")
	at(true, true, "7377", "443")
	at(false, false, "8080")

	req := w.request(a)
	req.Managers = []string{"nonsense"}
	if _, err := w.n.Apply(t.Context(), req); err == nil {
		t.Error("a manager without a port was taken")
	}
	at(false, false, "8080")
}
