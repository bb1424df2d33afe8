package netd

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// Names of what is made and deleted again while probing.
const (
	probeBridge = "rdtprobe0"
	probeVeth   = "rdtprobe1"
	probePeer   = "rdtprobe2"
	probeTable  = "redoubt_probe"
)

type feature struct {
	name string
	try  func(h *netlink.Handle, nf *kernel.Netfilter) error
	// without says what is missing on a node that lacks it; such a feature
	// is not required.
	without string
}

var features = []feature{
	{"bridge", func(h *netlink.Handle, _ *kernel.Netfilter) error {
		return scratch(h, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: probeBridge, TxQLen: -1}})
	}, ""},
	{"veth", func(h *netlink.Handle, _ *kernel.Netfilter) error {
		return scratch(h, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: probeVeth, TxQLen: -1}, PeerName: probePeer})
	}, ""},
	{"nftables inet", nft(func(b *builder) {
		b.chain("c")
	}, nftables.TableFamilyINet), ""},
	{"nftables bridge", nft(func(b *builder) {
		ruleset{endpoints: []endpoint{sample}}.bridge(b)
	}, nftables.TableFamilyBridge), ""},
	{"nftables fib", nft(func(b *builder) {
		b.rule(b.chain("c"), ipv4(), toNode(), accept())
	}, nftables.TableFamilyINet), ""},
	{"nftables ct", nft(func(b *builder) {
		b.rule(b.chain("c"), state(ctEstablished), accept())
	}, nftables.TableFamilyINet), ""},
	// The whole of it, translation from maps and masquerading included.
	{"nftables nat", nft(func(b *builder) {
		ruleset{subnet: sample.addr.Masked(), endpoints: []endpoint{sample}, opened: []string{"a"}, bridges: []string{"b"}}.inet(b)
	}, nftables.TableFamilyINet), ""},
	{"conntrack", func(h *netlink.Handle, _ *kernel.Netfilter) error {
		_, err := h.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil
		}
		return err
	}, ""},
	{"forwarding", func(*netlink.Handle, *kernel.Netfilter) error {
		f, err := os.OpenFile("/proc/sys/net/ipv4/conf/lo/forwarding", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return f.Close()
	}, ""},
	{featureFlows, nft(func(b *builder) {
		flowBounds{open: maxFlows, rate: maxFlowRate, burst: maxFlowBurst}.rules(b)
	}, nftables.TableFamilyINet), "how many connections a container opens is not bounded, so one may use up the node's table of them"},
	{"ipsec policies", func(h *netlink.Handle, _ *kernel.Netfilter) error {
		_, err := kernel.SetUnjudged(probeMark, kernel.To(sample.addr, netlink.XFRM_DIR_FWD))
		if _, e := kernel.DropUnjudged(probeMark, nil); err != nil || e != nil {
			return kernel.OneLine(err, e)
		}
		return kernel.PoliciesAsked(h)
	}, "a ruleset that is flushed while netd is away leaves the node's networks open"},
}

const featureFlows = "nftables connlimit"

var sample = endpoint{task: "probe", addr: netip.MustParsePrefix("192.0.2.2/24"), ports: []port{
	{host: netip.IPv4Unspecified(), published: 1, target: 1},
	{host: netip.MustParseAddr("192.0.2.1"), published: 2, target: 1, udp: true},
}}

// probe tries each feature in the node's namespace and undoes it. n.mu is held.
func (n *Node) probe() (out []*netdpb.Feature) {
	err := n.onNode(func(h *netlink.Handle) error {
		for _, f := range features {
			r := &netdpb.Feature{Name: f.name, Required: f.without == ""}
			if err := f.try(h, n.nf); err != nil {
				r.Detail = err.Error()
				if !r.Required {
					r.Detail = f.without + ": " + r.Detail
				}
			} else {
				r.Present = true
			}
			out = append(out, r)
		}
		return nil
	})
	if err != nil {
		out = append(out, &netdpb.Feature{Name: "netlink", Required: true, Detail: err.Error()})
	}
	return out
}

// scratch makes the link and deletes it. One that a killed process left behind
// is deleted first.
func scratch(h *netlink.Handle, link netlink.Link) error {
	old, err := kernel.FindLink(h, link.Attrs().Name)
	if err != nil {
		return err
	}
	if old != nil {
		if err := kernel.DeleteLink(h, old); err != nil {
			return err
		}
	}
	if err := h.LinkAdd(link); err != nil {
		return fmt.Errorf("make a %s: %w", link.Type(), err)
	}
	return kernel.DeleteLink(h, link)
}

// nft makes rules and deletes them in the same transaction: the kernel checks
// them all and no packet ever sees them.
func nft(make func(*builder), family nftables.TableFamily) func(*netlink.Handle, *kernel.Netfilter) error {
	return func(_ *netlink.Handle, nf *kernel.Netfilter) error {
		t := &nftables.Table{Name: probeTable, Family: family}
		_, err := nf.Commit(0, []*nftables.Table{t}, func(batch *kernel.Batch, _ bool) error {
			b := newBuilder(batch, t)
			make(b)
			b.conn.DelTable(t)
			return b.err
		})
		return err
	}
}
