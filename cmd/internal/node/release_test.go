package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
)

// A name is where it leads, as an address is; one that leads nowhere is nobody's.
func TestElsewhere(t *testing.T) {
	answers := func(to ...string) func(context.Context, string, string) ([]netip.Addr, error) {
		return func(ctx context.Context, network, host string) (out []netip.Addr, err error) {
			if end, ok := ctx.Deadline(); !ok || time.Until(end) > lookUpFor || network != "ip" || host != "manager-3.example" {
				t.Errorf("asked for %s %s until %v", network, host, end)
			}
			for _, a := range to {
				out = append(out, netip.MustParseAddr(a))
			}
			return out, nil
		}
	}
	fails := func(context.Context, string, string) ([]netip.Addr, error) { return nil, errors.New("no such host") }
	unasked := func(context.Context, string, string) ([]netip.Addr, error) {
		t.Error("the resolver was asked")
		return nil, nil
	}
	const name, here, there = "manager-3.example:2377", "192.0.2.3", "192.0.2.9"
	for what, tc := range map[string]struct {
		address, reached, from string
		lookup                 func(context.Context, string, string) ([]netip.Addr, error)
		want                   bool
	}{
		"an address":                    {here + ":2377", "", here, unasked, false},
		"another than the address":      {here + ":2377", "", there, unasked, true},
		"an address of IPv6":            {"[2001:db8::3]:2377", "", "2001:db8::3", unasked, false},
		"one with a zone":               {"[fe80::3%eth0]:2377", "", "fe80::3", unasked, false},
		"where the name was answered":   {name, here, here, unasked, false},
		"another than answered":         {name, here, there, answers(here), true},
		"another address of the name":   {name, here, "2001:db8::3", answers(here, "2001:db8::3"), false},
		"nobody answered":               {name, "", here, answers("::ffff:" + here), false},
		"nobody answered, another asks": {name, "", there, answers(here), true},
		"a name that leads nowhere":     {name, "", here, fails, true},
		"a name with no address":        {name, "", here, answers(), true},
		"who asks is not known":         {name, "", "", answers(here), true},
		"no port":                       {"manager-3.example", "", here, unasked, true},
	} {
		addr := func(s string) (a netip.Addr) {
			if s != "" {
				a = netip.MustParseAddr(s)
			}
			return a
		}
		if got := elsewhere(t.Context(), tc.lookup, tc.address, addr(tc.reached), addr(tc.from)); got != tc.want {
			t.Errorf("%s: elsewhere is %v", what, got)
		}
	}
}

// Who asks in the name of a manager that is open, or of one that is off, from another
// address is told of, also where its address on record is a name.
func TestLockedByName(t *testing.T) {
	w := newCallerWorld(t)
	w.m.boot = w.boot
	_, open, err := net.SplitHostPort(w.addr)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, off, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	own, other := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.9")
	for _, host := range []string{"localhost", "127.0.0.1"} {
		for _, tc := range []struct {
			port   string
			from   netip.Addr
			reason string // of the event; empty: none
			text   string
		}{
			{open, other, "in use", "somebody else asks"},
			{open, own, "", "is open already"},
			{off, other, "elsewhere", "no locked manager was found"},
			{off, own, "", "no locked manager was found"},
		} {
			node := &pkipb.Node{Id: w.m.n.self.NodeID, Name: "manager-1", Address: net.JoinHostPort(host, tc.port)}
			to, why, err := w.m.locked(t.Context(), node, tc.from)
			if why != nil && err == nil {
				err = why
			}
			if to != nil || err == nil || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%s from %s: %v, %v", node.Address, tc.from, to, err)
			}
			if got := why != nil; got != (tc.reason != "") || got && why.reason != tc.reason {
				t.Errorf("%s from %s: told of %v", node.Address, tc.from, why)
			}
		}
	}
}
