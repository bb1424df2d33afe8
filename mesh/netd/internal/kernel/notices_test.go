package kernel

import (
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func setLo(h *netlink.Handle, up bool) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	if up {
		return h.LinkSetUp(lo)
	}
	return h.LinkSetDown(lo)
}

// Who listens to several topics knows whether one of them was all there was.
func TestNewsOfOneTopic(t *testing.T) {
	t.Parallel()
	namespace(t, func() {
		ns, err := OpenOwn()
		if err != nil {
			t.Error(err)
			return
		}
		defer ns.Close()
		nf := openNetfilter(t)
		defer nf.Close()
		n, err := Subscribe(ns, Rulesets, Routes)
		if err != nil {
			t.Error(err)
			return
		}
		defer n.Close()
		commit := func() error {
			table := &nftables.Table{Name: "a", Family: nftables.TableFamilyINet}
			_, err := nf.Commit(0, []*nftables.Table{table}, func(b *Batch, _ bool) error {
				b.Words().AddTable(table)
				b.Words().DelTable(table)
				return nil
			})
			return err
		}
		link := func() error { return WithRoutes(ns, func(h *netlink.Handle) error { return setLo(h, true) }) }
		patience := time.After(20 * time.Second)
		wait := func() bool {
			select {
			case <-n.C:
				return true
			case <-patience:
				t.Error("no notice came")
				return false
			}
		}
		if err := commit(); err != nil {
			t.Error(err)
			return
		}
		if wait() && !n.Only(Rulesets) {
			t.Error("news of a ruleset alone is said to be of something else as well")
		}
		if err := link(); err != nil {
			t.Error(err)
			return
		}
		for wait() && n.Only(Rulesets) { // of the ruleset there may be more
		}
	})
}

// What the own socket does is not told, and what others do is.
func TestOwnNoticesAreLeftOut(t *testing.T) {
	t.Parallel()
	namespace(t, func() {
		ns, err := OpenOwn()
		if err != nil {
			t.Error(err)
			return
		}
		defer ns.Close()
		s, err := OpenSocket()
		if err != nil {
			t.Error(err)
			return
		}
		defer s.Close()
		if err := WithRoutes(ns, func(h *netlink.Handle) error { return setLo(h, true) }); err != nil {
			t.Error(err)
			return
		}
		senders := make(chan uint32, 1000)
		n, err := Listen(ns, func(_ Topic, b []byte) {
			Messages(b, func(h unix.NlMsghdr, _ []byte) error {
				if h.Type == unix.RTM_NEWROUTE {
					senders <- h.Pid
				}
				return nil
			})
		}, func() { close(senders) }, Routes)
		if err != nil {
			t.Error(err)
			return
		}
		defer n.Close()
		if err := n.Ignore(Routes, s.Port()); err != nil {
			t.Error(err)
			return
		}
		// A route of the main table, through lo, to 192.0.2.x/32.
		route := func(last byte) []Message {
			body := []byte{unix.AF_INET, 32, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_LINK, unix.RTN_UNICAST, 0, 0, 0, 0}
			body = AppendAttribute(body, unix.RTA_DST, []byte{192, 0, 2, last})
			body = AppendAttribute(body, unix.RTA_OIF, []byte{1, 0, 0, 0})
			return []Message{{Type: unix.RTM_NEWROUTE, Flags: unix.NLM_F_CREATE, Body: body}}
		}
		other, err := OpenSocket()
		if err != nil {
			t.Error(err)
			return
		}
		defer other.Close()
		for i, who := range []*Socket{s, s, other} {
			if err := who.Do(route(byte(i+1)), func(_ int, err error) { t.Error(err) }); err != nil {
				t.Error(err)
				return
			}
		}
		select {
		case from := <-senders: // those that came before would be here before
			if from != other.Port() {
				t.Errorf("heard of %d, which is not the other one, %d; the own one is %d", from, other.Port(), s.Port())
			}
		case <-time.After(20 * time.Second):
			t.Error("the other one's route was not told")
		}
	})
}
