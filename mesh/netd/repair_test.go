package netd

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
)

// Whatever somebody does to the table, it is put back at the kernel's notice.
func TestTableIsPutBack(t *testing.T) {
	w := newWorld(t)
	a := w.box(1, tcpPort(8080, 80))
	w.serve(a.ns, "tcp", "0.0.0.0:80")
	w.apply(a)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.n.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	}()
	notices, err := kernel.Subscribe(w.n.ns, kernel.Rulesets)
	if err != nil {
		t.Fatal(err)
	}
	defer notices.Close()

	inet, bridge := tables()
	for name, harm := range map[string]func(c *nftables.Conn) error{
		"inet deleted":     func(c *nftables.Conn) error { c.DelTable(inet); return nil },
		"bridge deleted":   func(c *nftables.Conn) error { c.DelTable(bridge); return nil },
		"counting deleted": func(c *nftables.Conn) error { c.DelTable(flows()); return nil },
		"counting flushed": func(c *nftables.Conn) error {
			c.FlushChain(&nftables.Chain{Table: flows(), Name: "forward"})
			return nil
		},
		"all flushed": func(c *nftables.Conn) error { c.FlushRuleset(); return nil },
		"chain flushed": func(c *nftables.Conn) error {
			c.FlushChain(&nftables.Chain{Table: bridge, Name: "guard"})
			return nil
		},
		"rule added": func(c *nftables.Conn) error {
			c.InsertRule(&nftables.Rule{Table: inet, Chain: &nftables.Chain{Table: inet, Name: "forward"}, Exprs: accept()})
			return nil
		},
		"element added": func(c *nftables.Conn) error {
			s, err := c.GetSetByName(inet, "addresses")
			if err != nil {
				return err
			}
			return c.SetAddElements(s, []nftables.SetElement{{Key: []byte{172, 29, 0, 99}}})
		},
		"element deleted": func(c *nftables.Conn) error {
			s, err := c.GetSetByName(inet, "targets")
			if err != nil {
				return err
			}
			c.FlushSet(s)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := w.n.State().GetRepairs()
			w.in(w.node, func() error {
				return kernel.WithNFT(func(c *nftables.Conn) error {
					if err := harm(c); err != nil {
						return err
					}
					return c.Flush()
				})
			})
			// Each notice may be the one of the repair.
			patience := time.After(deadline)
			for w.n.State().GetRepairs() == before {
				select {
				case <-notices.C:
				case <-time.After(10 * time.Millisecond): // it is counted after its notice came
				case <-patience:
					t.Fatal("not put back")
				}
			}
			w.reaches(w.outside, "tcp", nodeIP+":8080", outsideIP)
			w.in(w.node, func() error {
				nf, err := kernel.OpenNetfilter()
				if err != nil {
					return err
				}
				defer nf.Close()
				if found, err := readPrints(nf); err != nil || found != w.n.print {
					t.Errorf("the table is not what it was (%v)", err)
				}
				return nil
			})
		})
	}
}

// Other people's rules are none of netd's business.
func TestForeignTablesAreLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.apply(w.box(1))
	var gen uint32
	w.in(w.node, func() error {
		err := kernel.WithNFT(func(c *nftables.Conn) error {
			c.AddChain(&nftables.Chain{Table: c.AddTable(&nftables.Table{Name: "mine", Family: nftables.TableFamilyINet}), Name: "c"})
			return c.Flush()
		})
		if err == nil {
			gen, err = netlab.Generation()
		}
		return err
	})
	w.n.repair(t.Context())
	w.in(w.node, func() error {
		if now, err := netlab.Generation(); err != nil || now != gen || w.n.State().GetRepairs() != 0 {
			t.Errorf("the ruleset was changed: %d, was %d (%v)", now, gen, err)
		}
		return nil
	})
}

// What no notice tells of is found by comparing.
func TestDevicesArePutBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.box(1, tcpPort(8080, 80))
	w.serve(a.ns, "tcp", "0.0.0.0:80")
	w.apply(a)
	link := func(name string, fn func(*netlink.Handle, netlink.Link) error) func(*netlink.Handle) error {
		return func(h *netlink.Handle) error {
			l, err := h.LinkByName(name)
			if err != nil {
				return err
			}
			return fn(h, l)
		}
	}
	port := portName(a.GetTaskId())
	for name, harm := range map[string]func(h *netlink.Handle) error{
		"bridge deleted": link(bridgeName, (*netlink.Handle).LinkDel),
		"bridge down":    link(bridgeName, (*netlink.Handle).LinkSetDown),
		"port deleted":   link(port, (*netlink.Handle).LinkDel),
		"port down":      link(port, (*netlink.Handle).LinkSetDown),
		"port taken out": link(port, (*netlink.Handle).LinkSetNoMaster),
		"address changed": link(bridgeName, func(h *netlink.Handle, l netlink.Link) error {
			return h.AddrReplace(l, &netlink.Addr{IPNet: mustIPNet("172.29.0.77/24")})
		}),
		"forwarding off": func(*netlink.Handle) error {
			return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1\n"), 0)
		},
		"forwarding off again": func(*netlink.Handle) error {
			if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1\n"), 0); err != nil {
				return err
			}
			return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0\n"), 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w.routes(w.node, harm)
			w.n.repair(t.Context())
			w.reaches(w.outside, "tcp", nodeIP+":8080", outsideIP)
			w.reaches(w.node, "tcp", "127.0.0.1:8080", gatewayIP)
			before := w.n.State().GetRepairs()
			w.n.repair(t.Context())
			if w.n.State().GetRepairs() != before {
				t.Error("the second look found something again")
			}
		})
	}
}

// A bridge without its rules is shut when netd starts, until it knows better.
func TestStartDeniesWithoutRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.box(1, tcpPort(8080, 80))
	w.serve(a.ns, "tcp", "0.0.0.0:80")
	w.serve(w.outside, "tcp", "0.0.0.0:7000")
	w.serve(w.other, "tcp", "0.0.0.0:7000")
	req := w.apply(a)
	w.n.Close()
	w.in(w.node, func() error {
		nf, err := kernel.OpenNetfilter()
		if err != nil {
			return err
		}
		return errors.Join(removeTables(nf), nf.Close())
	})
	w.reaches(w.outside, "tcp", otherIP+":7000", "") // this is what is at stake
	w.n = w.start()
	if err := w.n.adopt(); err != nil {
		t.Fatal(err)
	}
	w.cannotReach(w.node, "tcp", a.ip+":80")
	w.cannotReach(a.ns, "tcp", outsideIP+":7000")
	w.cannotReach(w.outside, "tcp", otherIP+":7000")
	w.mustApply(req)
	w.reaches(w.outside, "tcp", nodeIP+":8080", outsideIP)
	w.cannotReach(w.outside, "tcp", otherIP+":7000")
}
