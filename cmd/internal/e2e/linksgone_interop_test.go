//go:build interop

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// TestInteropLinksGone is an operator who deletes, one by one, every interface that the
// cluster made on a node, in its own namespace, those of networks and a task's.
// Each comes back, and what went through it does.
func TestInteropLinksGone(t *testing.T) {
	t.Parallel()
	c := up(t, "linksgone", 1, 2)
	c.load()
	c.ok("manager-1", "network", "create", "back")
	c.populate("web back worker-1 --publish published=8102,target=80 --publish mode=host,published=8103,target=80", "db back worker-2")
	o := &overlayStory{cluster: c}
	x := &pruner{cluster: c, w1: c.meshHost("worker-1"), web: o.task("web"), db: o.task("db")}
	inside, outside := c.place(x.web), c.place(x.db)
	addr := c.host("worker-1").Address
	by := func(from *place, service string) func() error {
		return func() error {
			addrs, err := from.names(service)
			if err != nil {
				return err
			}
			return ask(from.dial, addrs[0])
		}
	}
	direct := new(net.Dialer).DialContext
	x.ways = map[string]func() error{
		"from its task":         by(inside, "db"),
		"to its task":           by(outside, "web"),
		"the port of each node": func() error { return ask(direct, c.host("worker-2").Address+":8102") },
		"its port":              func() error { return ask(direct, addr+":8102") },
		"its port of mode host": func() error { return ask(direct, addr+":8103") },
		"the way out":           func() error { return ask(inside.dial, c.host("worker-2").Address+":8102") },
	}
	x.works("at first")
	for _, where := range []struct{ name, ns string }{
		{"the node", x.w1.ns},
		{"the network's namespace", x.w1.networkNS(c.inspectNetwork("back").Network.ID)},
		{"the namespace of published ports", x.w1.pinned + "/net-ingress"},
		{"the task's sandbox", x.w1.taskNS(x.web.ID)},
	} {
		for _, link := range x.links(where.ns) {
			x.prune(where.name, where.ns, link)
		}
	}
	if now := o.task("web"); now.ID != x.web.ID {
		t.Errorf("web was replaced: %v", now)
	}
}

type pruner struct {
	*cluster
	w1      *meshHost
	web, db taskJSON
	ways    map[string]func() error
}

// links are the namespace's interfaces but its loopback and the machine's card.
func (x *pruner) links(ns string) (out []string) {
	x.t.Helper()
	within(x.t, ns, func() error {
		all, err := net.Interfaces()
		for _, l := range all {
			if l.Flags&net.FlagLoopback == 0 && !(ns == x.w1.ns && l.Name == "eth0") {
				out = append(out, l.Name)
			}
		}
		return err
	})
	if len(out) == 0 {
		x.t.Errorf("%s has no interface", ns)
	}
	return out
}

func (x *pruner) prune(where, ns, link string) {
	x.t.Helper()
	at := time.Now()
	within(x.t, ns, func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
	var last string
	for end := at.Add(30 * time.Second); ; {
		if last = x.missing(); last == "" {
			break
		}
		if time.Now().After(end) {
			x.t.Fatalf("%s of %s was deleted: after 30 s %s", link, where, last)
		}
	}
	x.t.Logf("%s of %s was deleted: all works after %v", link, where, time.Since(at).Round(10*time.Millisecond))
}

func (x *pruner) works(when string) {
	x.t.Helper()
	eventually(x.t, 30*time.Second, func() string {
		if m := x.missing(); m != "" {
			return when + ": " + m
		}
		return ""
	})
}

// missing is what does not work.
func (x *pruner) missing() string {
	var out []string
	type answer struct {
		name string
		err  error
	}
	answers := make(chan answer)
	for name, try := range x.ways {
		go func() { answers <- answer{name, try()} }()
	}
	for range x.ways {
		if a := <-answers; a.err != nil {
			out = append(out, fmt.Sprintf("%s: %v", a.name, a.err))
		}
	}
	return strings.Join(out, "; ")
}

// ask asks for a page, for a second.
func ask(dial func(ctx context.Context, network, address string) (net.Conn, error), address string) error {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
	resp, err := client.Get("http://" + address + "/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}
