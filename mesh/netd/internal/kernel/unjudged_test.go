package kernel

import (
	"net/netip"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What is in force is found as it was set, each mark's for itself, and goes.
func TestUnjudgedAreFoundAgain(t *testing.T) {
	t.Parallel()
	in := func() error {
		runtime.LockOSThread() // the thread ends here
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		set := func(mark uint32, changes bool, want ...Unjudged) {
			t.Helper()
			if changed, err := SetUnjudged(mark, want); err != nil || changed != changes {
				t.Errorf("changed %v, %v", changed, err)
			}
		}
		four, six := netip.MustParsePrefix("10.255.0.0/16"), netip.MustParsePrefix("fd00:9::/64")
		all := append(append(From(four, netlink.XFRM_DIR_FWD, netlink.XFRM_DIR_IN), To(six, netlink.XFRM_DIR_FWD)...), From(six, netlink.XFRM_DIR_FWD)...)
		all = append(all, ToUDP(4789), From(netip.MustParsePrefix("fd00:1:2:3::1/128"), netlink.XFRM_DIR_FWD)[0])
		set(JudgedByMesh, true, all...)
		set(JudgedByMesh, false, all...)
		set(JudgedByIngress, true, all...)
		set(JudgedByMesh, true, all[1:]...)
		set(JudgedByMesh, false, all[1:]...)
		set(JudgedByMesh, true)
		set(JudgedByMesh, false)
		set(JudgedByIngress, false, all...)
		// Somebody's own is left as it is, and one of the mark that is not as ours are
		// is not taken for one.
		h, err := netlink.NewHandle(unix.NETLINK_XFRM)
		if err != nil {
			return err
		}
		defer h.Close()
		p := all[0].policy(JudgedByIngress)
		p.Mark = nil
		if err := h.XfrmPolicyAdd(p); err != nil {
			return err
		}
		p = all[0].policy(JudgedByIngress)
		p.Action = netlink.XFRM_POLICY_ALLOW
		if err := h.XfrmPolicyUpdate(p); err != nil {
			return err
		}
		set(JudgedByIngress, true, all...)
		set(JudgedByIngress, false, all...)
		set(JudgedByIngress, true)
		left, err := policies()
		if len(left) != 1 {
			t.Errorf("%d policies are left, want somebody's own", len(left))
		}
		return err
	}
	done := make(chan error)
	go func() { done <- in() }()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A setting by which the kernel does not ask policies is found, on any interface but lo.
func TestPoliciesThatAreNotAsked(t *testing.T) {
	t.Parallel()
	namespace(t, func() {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			t.Error(err)
			return
		}
		defer h.Close()
		if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "d0"}}); err != nil {
			t.Error(err)
			return
		}
		if err := PoliciesAsked(h); err != nil {
			t.Error(err)
		}
		for _, at := range []string{"ipv4/conf/all", "ipv6/conf/all", "ipv4/conf/d0", "ipv6/conf/d0"} {
			want := "net/" + at + "/disable_policy is on: set it to 0"
			if _, err := SetSysctl("1", at, "disable_policy"); err != nil {
				t.Error(err)
			}
			if err := PoliciesAsked(h); err == nil || err.Error() != want {
				t.Errorf("%v and not %s", err, want)
			}
			if _, err := SetSysctl("0", at, "disable_policy"); err != nil {
				t.Error(err)
			}
		}
	})
}
