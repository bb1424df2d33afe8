package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A client is outside of the cluster: this machine, on the lab's bridge. It has an
// address of each family there, and so have the hosts.
type client struct {
	*cluster
	four, six netip.Addr
	hosts6    map[string]netip.Addr // by host
}

// newClient gives the lab IPv6: fd52 and the IPv4 address behind it.
func (c *cluster) newClient() *client {
	c.t.Helper()
	x := &client{cluster: c, hosts6: map[string]netip.Addr{}}
	all := c.hosts()
	bridge := ""
	links, err := net.Interfaces()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, l := range links {
		addrs, _ := l.Addrs()
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err == nil && p.Masked().Contains(netip.MustParseAddr(all[0].Address)) && p.Bits() >= 24 {
				bridge, x.four = l.Name, p.Addr()
			}
		}
	}
	if bridge == "" {
		c.t.Fatalf("no interface leads to %s", all[0].Address)
	}
	six := func(four netip.Addr) netip.Addr {
		b := four.As4()
		return netip.AddrFrom16([16]byte{0xfd, 0x52, b[0], b[1], b[2], 14: b[2], 15: b[3]})
	}
	x.six = six(x.four)
	if out, err := exec.Command("ip", "-6", "addr", "add", x.six.String()+"/64", "dev", bridge, "nodad").CombinedOutput(); err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
	for _, h := range all {
		a := six(netip.MustParseAddr(h.Address))
		x.hosts6[h.Name] = a
		c.inHost(h.Name, "ip", "-6", "addr", "add", a.String()+"/64", "dev", "eth0", "nodad")
		c.inHost(h.Name, "ip", "-6", "route", "add", "default", "via", x.six.String())
	}
	return x
}

// at is where a host answers, by family.
func (x *client) at(h host, six bool, port int) string {
	a := netip.MustParseAddr(h.Address)
	if six {
		a = x.hosts6[h.Name]
	}
	return netip.AddrPortFrom(a, uint16(port)).String()
}

// asked is what a task said: which it is, and whom it sees.
type asked struct{ task, client string }

// askTCP asks by HTTP.
func askTCP(address string) (a asked, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/client", nil)
	if err != nil {
		return a, err
	}
	t := &http.Transport{DisableKeepAlives: true}
	defer t.CloseIdleConnections()
	resp, err := t.RoundTrip(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return a, err
	}
	return parseAsked(string(b))
}

// askUDP asks by UDP, from another port each time; one that is lost is sent
// again.
func askUDP(address string) (a asked, err error) {
	c, err := net.Dial("udp", address)
	if err != nil {
		return a, err
	}
	defer c.Close()
	buf := make([]byte, 500)
	for range 3 {
		if _, err = c.Write([]byte("?")); err != nil {
			return a, err
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		var n int
		if n, err = c.Read(buf); err == nil {
			return parseAsked(string(buf[:n]))
		}
	}
	return a, err
}

func parseAsked(text string) (a asked, err error) {
	var at string
	text = strings.TrimSpace(text)
	if _, err := fmt.Sscanf(text, "hello from %s at %s you are %s", &a.task, &at, &a.client); err != nil {
		return a, fmt.Errorf("%w: %q", err, text)
	}
	p, err := netip.ParseAddrPort(a.client)
	a.client = p.Addr().Unmap().String()
	return a, err
}

// answers fails unless the address answers a few times, from each of the tasks and
// from no other, and each time sees this client.
func (x *client) answers(ask func(string) (asked, error), address string, want ...taskJSON) {
	x.t.Helper()
	seen := map[string]int{}
	for range 2 * len(want) {
		a, err := ask(address)
		if err != nil {
			x.t.Errorf("%s: %v", address, err)
			return
		}
		if a.client != x.four.String() && a.client != x.six.String() {
			x.t.Errorf("%s: the task saw %s, which is not its client", address, a.client)
		}
		seen[a.task]++
	}
	for _, w := range want {
		if seen[w.ID[:12]] == 0 {
			x.t.Errorf("%s: task %s was not asked: %v", address, w.Name, seen)
		}
		delete(seen, w.ID[:12])
	}
	if len(seen) > 0 {
		x.t.Errorf("%s: somebody else was asked: %v", address, seen)
	}
}

// everywhere asks every host, by both families and protocols.
func (x *client) everywhere(hosts []host, port int, want ...taskJSON) {
	x.t.Helper()
	x.ways(hosts, port, func(ask func(string) (asked, error), address string) bool {
		x.answers(ask, address, want...)
		return true
	})
}

// soon waits until every host leads to that task, which managers know of before
// the hosts do.
func (x *client) soon(hosts []host, port int, task taskJSON) {
	x.t.Helper()
	eventually(x.t, 20*time.Second, func() (not string) {
		x.ways(hosts, port, func(ask func(string) (asked, error), address string) bool {
			for range 4 {
				if a, err := ask(address); err == nil && a.task == task.ID[:12] {
					return true
				}
			}
			not = fmt.Sprintf("%s does not lead to %s", address, task.Name)
			return false
		})
		return not
	})
}

// ways calls f with each way to a port, until it returns false.
func (x *client) ways(hosts []host, port int, f func(ask func(string) (asked, error), address string) bool) {
	for _, h := range hosts {
		for _, six := range []bool{false, true} {
			for _, ask := range []func(string) (asked, error){askTCP, askUDP} {
				if !f(ask, x.at(h, six, port)) {
					return
				}
			}
		}
	}
}

// serving are a service's tasks that run.
func (c *cluster) serving(service string) (out []taskJSON) {
	c.t.Helper()
	for _, t := range c.tasks("manager-1", service) {
		if t.State == "running" && t.Desired == "running" {
			out = append(out, t)
		}
	}
	return out
}

// with is the same for a part of a story.
func (x *client) with(t *testing.T) *client {
	sub, out := *x.cluster, *x
	sub.t = t
	out.cluster = &sub
	return &out
}
