package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// What the kernel does with a packet when a table of ours is not there, as somebody
// flushed the ruleset while no netd runs to put it back, is said apart from all
// tables: by policies of its IPsec, which drop what has not the mark of that table.
// The table sets the mark where it lets pass, so whatever takes the table away
// closes the way. They stand in the network namespace as routes do, and outlive
// netd as well.
//
// Policies are asked after the destination was translated and before the packet is
// forwarded or handed to a socket, fragments put together. Of a packet whose
// addresses were translated they see those from before: what a published port's
// clients send is judged by the port.

// Marks of tables, each a bit of its own. They are on packets inside the node only.
const (
	JudgedByMesh    = 0x10000000
	JudgedByBridge  = 0x20000000
	JudgedByIngress = 0x40000000
)

// Unjudged describes packets that are dropped without the mark.
type Unjudged struct {
	Dir      netlink.Dir // XFRM_DIR_IN: to this node; XFRM_DIR_FWD: through it
	Src, Dst netip.Prefix
	UDP      uint16 // destination port; 0: whatever protocol
}

// From and To are all packets from or to a prefix, in any of the directions.
func From(p netip.Prefix, dirs ...netlink.Dir) (out []Unjudged) {
	for _, d := range dirs {
		out = append(out, Unjudged{Dir: d, Src: p.Masked(), Dst: everywhere(p)})
	}
	return out
}

func To(p netip.Prefix, dirs ...netlink.Dir) (out []Unjudged) {
	for _, d := range dirs {
		out = append(out, Unjudged{Dir: d, Src: everywhere(p), Dst: p.Masked()})
	}
	return out
}

// ToUDP is what comes to this node's port.
func ToUDP(port uint16) Unjudged {
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	return Unjudged{Dir: netlink.XFRM_DIR_IN, Src: all, Dst: all, UDP: port}
}

func everywhere(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

func (u Unjudged) policy(mark uint32) *netlink.XfrmPolicy {
	p := &netlink.XfrmPolicy{Dir: u.Dir, Src: IPNet(u.Src), Dst: IPNet(u.Dst), Action: netlink.XFRM_POLICY_BLOCK, Priority: unjudgedPriority,
		Mark: &netlink.XfrmMark{Value: 0, Mask: mark}}
	if u.UDP != 0 {
		p.Proto, p.DstPort = unix.IPPROTO_UDP, int(u.UDP)
	}
	return p
}

// Policies are those of one table, as its owner set them last.
type Policies struct{ last []Unjudged }

// Set makes them these, once the table that sets the mark is in force. putBack: they
// were these before, and somebody had changed them.
func (p *Policies) Set(mark uint32, want []Unjudged) (putBack bool, err error) {
	changed, err := DropUnjudged(mark, want)
	putBack = changed && len(want) > 0 && p.Are(want)
	if p.last = nil; err == nil {
		p.last = want
	}
	return putBack, err
}

// Are reports whether these were set last.
func (p *Policies) Are(want []Unjudged) bool { return slices.Equal(p.last, want) }

// DropUnjudged is SetUnjudged where the kernel has policies. Where it has none, the
// tables are all there is, as netd's probe says.
func DropUnjudged(mark uint32, want []Unjudged) (changed bool, err error) {
	changed, err = SetUnjudged(mark, want)
	if errors.Is(err, ErrNoPolicies) {
		err = nil
	}
	return changed, err
}

// SetUnjudged makes these the policies that go with the mark, in the calling
// thread's namespace, and reports whether they were not. They are put in force when
// the table that sets the mark is.
func SetUnjudged(mark uint32, want []Unjudged) (changed bool, err error) {
	h, err := netlink.NewHandle(unix.NETLINK_XFRM)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return false, ErrNoPolicies
	}
	if err != nil {
		return false, fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	if err := h.SetSocketTimeout(requestTimeout); err != nil {
		return false, err
	}
	missing := slices.Clone(want)
	have, err := policies()
	if err != nil {
		return false, fmt.Errorf("list IPsec policies: %w", err)
	}
	for _, p := range have {
		if p.mark != (nl.XfrmMark{Mask: mark}) {
			continue
		}
		if p.ours && slices.Contains(missing, p.Unjudged) {
			missing = slices.DeleteFunc(missing, func(w Unjudged) bool { return w == p.Unjudged })
			continue
		}
		changed = true
		err := h.XfrmPolicyDel(&netlink.XfrmPolicy{Index: p.index, Dir: p.Dir, Mark: &netlink.XfrmMark{Value: p.mark.Value, Mask: mark}})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return changed, fmt.Errorf("delete an IPsec policy: %w", err)
		}
	}
	for _, u := range missing {
		changed = true
		if err := h.XfrmPolicyUpdate(u.policy(mark)); err != nil {
			return changed, fmt.Errorf("drop what comes from %s to %s unjudged: %w", u.Src, u.Dst, err)
		}
	}
	return changed, nil
}

// ErrNoPolicies is of a kernel without.
var ErrNoPolicies = errors.New("this kernel takes no IPsec policies")

// PoliciesAsked reports an interface whose packets the kernel does not ask policies
// about, by a setting that some ways of making tunnels want. What comes by lo is never
// asked about. The settings are not ours to change.
func PoliciesAsked(h *netlink.Handle) error {
	links, err := Whole(h.LinkList)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	names := []string{"all"}
	for _, l := range links {
		if l.Attrs().Flags&net.FlagLoopback == 0 {
			names = append(names, l.Attrs().Name)
		}
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		for _, name := range names {
			b, err := os.ReadFile("/proc/sys/net/" + family + "/conf/" + name + "/disable_policy")
			if err != nil && !errors.Is(err, os.ErrNotExist) { // no IPv6, or the interface is gone
				return err
			}
			if len(b) > 0 && b[0] != '0' {
				return fmt.Errorf("net/%s/conf/%s/disable_policy is on: set it to 0", family, name)
			}
		}
	}
	return nil
}

// A found policy is one that the kernel has.
type found struct {
	Unjudged
	mark  nl.XfrmMark
	index int
	ours  bool // it has the form that we give them
}

// policies are all of the calling thread's namespace. The library's own list takes
// some addresses of IPv6 for others.
func policies() ([]found, error) {
	return Whole(func() (all []found, err error) {
		req := nl.NewNetlinkRequest(nl.XFRM_MSG_GETPOLICY, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		messages, err := req.Execute(unix.NETLINK_XFRM, nl.XFRM_MSG_NEWPOLICY)
		for _, m := range messages {
			if len(m) < nl.SizeofXfrmUserpolicyInfo {
				return nil, errors.New("the kernel describes a policy in few words")
			}
			p := nl.DeserializeXfrmUserpolicyInfo(m)
			attrs, err := nl.ParseRouteAttr(m[nl.SizeofXfrmUserpolicyInfo:])
			if err != nil {
				return nil, err
			}
			x := found{index: int(p.Index), Unjudged: Unjudged{Dir: netlink.Dir(p.Dir), Src: selected(p.Sel.Family, p.Sel.Saddr, p.Sel.PrefixlenS),
				Dst: selected(p.Sel.Family, p.Sel.Daddr, p.Sel.PrefixlenD), UDP: nl.Swap16(p.Sel.Dport)}}
			x.ours = p.Action == uint8(netlink.XFRM_POLICY_BLOCK) && p.Priority == unjudgedPriority && p.Sel.Sport == 0 && p.Sel.SportMask == 0 && p.Sel.Ifindex == 0 &&
				(x.UDP == 0 && p.Sel.Proto == 0 && p.Sel.DportMask == 0 || x.UDP != 0 && p.Sel.Proto == unix.IPPROTO_UDP && p.Sel.DportMask == ^uint16(0))
			for _, a := range attrs {
				switch a.Attr.Type {
				case nl.XFRMA_MARK:
					if len(a.Value) == nl.SizeofXfrmMark {
						x.mark = *nl.DeserializeXfrmMark(a.Value)
					}
				case nl.XFRMA_TMPL, nl.XFRMA_IF_ID, nl.XFRMA_SEC_CTX:
					x.ours = false
				}
			}
			all = append(all, x)
		}
		return all, err
	})
}

// selected is the zero prefix for what is none.
func selected(family uint16, a nl.XfrmAddress, bits uint8) netip.Prefix {
	addr := netip.AddrFrom16(a)
	if family == unix.AF_INET {
		addr = netip.AddrFrom4([4]byte(a[:4]))
	}
	p, _ := addr.Prefix(int(bits))
	return p
}
