package fabric

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// reconcile makes table, interface and device what the plan says and returns
// what it had to change. f.mu is held.
//
// The table comes first, so there is no instant at which the interface carries
// anything without it.
func (f *Fabric) reconcile(h *netlink.Handle) (changes []string, err error) {
	changed := func(what string) { changes = append(changes, what) }
	repaired, err := f.table.ensure()
	if err != nil {
		return changes, err
	}
	if repaired {
		changed("put table " + tableName + " back")
		f.meddled.Note("table " + tableName)
	}
	if err := f.dropUnjudged(changed); err != nil {
		return changes, err
	}
	if f.plan.generation == 0 {
		return changes, nil // what an earlier process left goes on until somebody says otherwise
	}
	if !f.plan.address.IsValid() {
		return changes, f.withdraw(h)
	}
	if err := apart(h, f.plan.address); err != nil {
		return changes, kernel.OneLine(err, f.withdraw(h))
	}
	mtu, err := f.tunnelMTU(h)
	if err != nil {
		return changes, err
	}
	c := f.table.content
	c.own, c.mesh, c.control = f.plan.address.Addr(), f.plan.address.Masked(), f.plan.control
	if err := f.table.set(c); err != nil {
		return changes, err
	}
	if !f.policies.Are(c.unjudged()) {
		if err := f.dropUnjudged(changed); err != nil {
			return changes, err
		}
	}
	had := f.driver != nil
	if err := f.open(h); err != nil {
		return changes, err
	}
	if had && f.have == nil {
		changed("configured the WireGuard interface anew")
	}
	if err := f.settleDevice(changed); err != nil {
		return changes, err
	}
	if err := f.settle(h, f.plan.address, mtu, changed); err != nil {
		return changes, err
	}
	f.mtu = mtu
	if f.port == 0 { // the kernel chooses one when the interface is set up
		s, err := f.driver.read()
		if err != nil {
			return changes, fmt.Errorf("read the WireGuard interface: %w", err)
		}
		f.port = s.port
	}
	f.chosen = f.port
	if err := f.lookForTurns(); err != nil {
		return changes, err
	}
	if err := f.settlePeers(nil, changed); err != nil {
		return changes, err
	}
	if err := f.settleRoutes(h, true, changed); err != nil {
		return changes, err
	}
	if err := f.moved(h); err != nil {
		return changes, err
	}
	if f.next != nil && f.plan.own == f.next.public {
		return changes, f.turnKey(changed)
	}
	return changes, nil
}

// mayBeBrief reports whether a difference can be told to the device by itself:
// all else is as it was. The rest is looked at right afterwards (Run).
func (f *Fabric) mayBeBrief(before settings) bool {
	now := f.plan.settings
	now.generation, now.own = before.generation, before.own
	return now == before && f.table.gen != 0 && f.driver != nil && f.driver.alive() && f.have != nil && f.mtu != 0
}

// settleDevice gives the device its key and port. The embedded one opens its
// socket here.
func (f *Fabric) settleDevice(changed func(string)) error {
	want := f.plan.port
	if want == 0 {
		want = f.chosen
	}
	if f.have != nil && f.port != 0 && (want == 0 || want == f.port) {
		return nil
	}
	s, err := f.driver.read()
	if err != nil {
		return fmt.Errorf("read the WireGuard interface: %w", err)
	}
	cfg := wgtypes.Config{}
	if s.public != f.current.public {
		cfg.PrivateKey = f.current.key()
	}
	if want != 0 && want != s.port {
		cfg.ListenPort = &want
		changed(fmt.Sprintf("set the WireGuard port to %d", want))
	}
	if err := f.driver.configure(cfg); err != nil {
		f.have, f.port = nil, 0
		return portError(err, want)
	}
	if s, err = f.driver.read(); err != nil {
		return fmt.Errorf("read the WireGuard interface: %w", err)
	}
	f.have, f.port = s.entries(), s.port
	return nil
}

// settlePeers tells the device what differs.
func (f *Fabric) settlePeers(touched map[wgtypes.Key]bool, changed func(string)) error {
	told := f.plan.diff(f.have, touched, f.turned)
	if len(told) == 0 {
		return nil
	}
	changed(fmt.Sprintf("changed %d peers", len(told)))
	var fresh []wgtypes.Key
	for _, c := range told {
		if !c.UpdateOnly {
			fresh = append(fresh, c.PublicKey)
		}
	}
	if err := f.tell(told); err != nil {
		return err
	}
	f.plan.apply(f.have, told, f.turned)
	return f.wake(fresh)
}

// wake makes these peers shake hands: a few at once, the others one batch after
// another (Run), as beginning a handshake costs some tenths of a millisecond.
func (f *Fabric) wake(keys []wgtypes.Key) error {
	now := min(len(keys), wakeAtOnce)
	f.asleep = append(f.asleep, keys[now:]...)
	f.noteTurns()
	off, on, as := f.plan.wake(keys[:now], f.turned)
	for _, peers := range [][]wgtypes.PeerConfig{off, on, as} {
		if err := f.tell(peers); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fabric) tell(peers []wgtypes.PeerConfig) error {
	if len(peers) == 0 {
		return nil
	}
	if err := f.driver.configure(wgtypes.Config{Peers: peers}); err != nil {
		f.have = nil // whatever it took, it is not known
		return fmt.Errorf("configure the WireGuard interface: %w", err)
	}
	return nil
}

// turnKey puts the next key in force. The device has the pre-shared keys made
// for it already: a handshake under the old key that falls in between fails, and
// its session lives on. From the change on every peer is called with the new key
// at once, as none may call us any more.
func (f *Fabric) turnKey(changed func(string)) error {
	if err := f.driver.configure(wgtypes.Config{PrivateKey: f.next.key()}); err != nil {
		f.have = nil
		return fmt.Errorf("put the next key in force: %w", err)
	}
	f.current.wipe()
	f.current, f.next = f.next, nil
	changed("put the next key in force")
	return f.wake(slices.Collect(maps.Keys(f.plan.keys)))
}

// waiting reports whether a peer announced a key and has not used it yet.
func (f *Fabric) waiting() bool { return len(f.plan.announced) > len(f.turned) }

// turning reports whether there is something for followTurns.
func (f *Fabric) turning() bool { return f.waiting() || len(f.asleep) > 0 }

// noteTurns has Run follow turns where there are any. A node at rest looks for none.
func (f *Fabric) noteTurns() {
	if !f.turning() {
		return
	}
	select {
	case f.turns <- struct{}{}:
	default: // it is going to look anyway
	}
}

// lookForTurns notes the announced keys that have shaken hands.
func (f *Fabric) lookForTurns() error {
	if !f.waiting() || f.driver == nil || len(f.have) == 0 {
		return nil
	}
	s, err := f.driver.read()
	if err != nil {
		return fmt.Errorf("read the WireGuard interface: %w", err)
	}
	for k := range f.plan.announced {
		if p, ok := s.peers[k]; ok && !p.handshake.IsZero() {
			f.turned[k] = true
		}
	}
	return nil
}

// withdraw takes the interface away; the table stays and lets nothing through.
func (f *Fabric) withdraw(h *netlink.Handle) error {
	if f.driver != nil {
		f.driver.close()
		f.driver = nil
	}
	f.have, f.port, f.mtu, f.paths = nil, 0, 0, paths{}
	link, err := kernel.FindLink(h, f.link)
	if err != nil {
		return err
	}
	if link != nil {
		if err := kernel.DeleteLink(h, link); err != nil {
			return err
		}
	}
	c := f.table.content
	c.own, c.mesh, c.control = content{}.own, content{}.mesh, 0
	return f.table.set(c)
}

// alive reports whether a session of the peer may still be used.
func alive(p peerStatus) bool { return !p.handshake.IsZero() && time.Since(p.handshake) < sessionLife }
