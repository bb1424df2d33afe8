package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/mesh/peer/peerpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// A rogue speaks the protocol by hand.
type rogue struct {
	t    testing.TB
	conn *tls.Conn
	x    exchange
	mem  memory

	creds *pki.Credentials
}

// rogue connects to a node with those credentials, under a configuration that may
// be changed.
func (w *world) rogue(to *node, creds *pki.Credentials, change func(*tls.Config)) (*rogue, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	raw, err := w.dial(ctx, "192.0.2.66:1", to.address)
	if err != nil {
		return nil, err
	}
	return w.rogueOver(ctx, raw, to, creds, change)
}

// rogueTCP is rogue for a node on loopback.
func (w *world) rogueTCP(to *node, creds *pki.Credentials) (*rogue, error) {
	raw, err := net.Dial("tcp", to.address)
	if err != nil {
		return nil, err
	}
	return w.rogueOver(w.t.Context(), raw, to, creds, nil)
}

func (w *world) rogueOver(ctx context.Context, raw net.Conn, to *node, creds *pki.Credentials, change func(*tls.Config)) (*rogue, error) {
	cfg := creds.ClientConfig(Protocol, "")
	if change != nil {
		change(cfg)
	}
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	r := &rogue{t: w.t, conn: conn, creds: creds}
	cs := conn.ConnectionState()
	id := creds.Identity().NodeID
	r.x = exchange{ids: [2]string{min(id, to.id()), max(id, to.id())}, lower: id < to.id(), export: cs.ExportKeyingMaterial, mem: &r.mem}
	return r, nil
}

func (r *rogue) say(frames ...*peerpb.Frame) error {
	for _, f := range frames {
		if err := wire.Write(r.conn, f); err != nil {
			return err
		}
	}
	return nil
}

// next is the next frame; announcements are taken.
func (r *rogue) next() (*peerpb.Frame, error) {
	r.conn.SetReadDeadline(time.Now().Add(time.Minute))
	var f peerpb.Frame
	if err := wire.ReadUpTo(r.conn, &f, maxFrame); err != nil {
		return nil, err
	}
	if a := f.GetAnnounce(); a != nil {
		heard, err := parseAnnounce(a)
		if err != nil {
			return nil, err
		}
		return &f, r.x.announced(heard)
	}
	return &f, nil
}

// ends reads until the connection is closed.
func (r *rogue) ends() {
	r.t.Helper()
	defer r.conn.Close()
	for {
		if _, err := r.next(); err != nil {
			var timeout interface{ Timeout() bool }
			if errors.As(err, &timeout) && timeout.Timeout() {
				r.t.Error("the connection goes on")
			}
			return
		}
	}
}

// Who may not come in, does not: nothing of what it says is read, and no exchange
// follows.
func TestRefusedAtTheDoor(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		a, b := w.nodes[0], w.nodes[1]
		denied := w.ca.NewNode(t, profilepb.Role_ROLE_WORKER).Credentials
		a.stop()
		a.start(func(o *Options) {
			o.Admit = func(cs tls.ConnectionState, _ net.Addr) error {
				if id, _ := a.creds.NodeID(cs, Protocol); id == denied.Identity().NodeID {
					return errors.New("removed")
				}
				return nil
			}
		})
		w.know(a, b)
		after(time.Second)
		views := []View{b.view(), {ID: denied.Identity().NodeID, Mesh: b.mesh().Next()}}
		if err := a.Set(a.mesh_(15), views); err != nil {
			t.Fatal(err)
		}
		other := pkitest.New(t)
		other.ClusterID = w.ca.ClusterID // of the same name, and another root
		x25519 := func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} }
		for name, c := range map[string]struct {
			creds  *pki.Credentials
			change func(*tls.Config)
		}{
			"another cluster":          {pkitest.New(t).NewNode(t, profilepb.Role_ROLE_WORKER).Credentials, nil},
			"a peer's id, other roots": {leaf(t, other, b.id(), profilepb.Role_ROLE_WORKER, time.Now(), time.Hour), nil},
			"no peer":                  {w.ca.NewNode(t, profilepb.Role_ROLE_WORKER).Credentials, nil},
			"no peer, a manager":       {w.ca.NewNode(t, profilepb.Role_ROLE_MANAGER).Credentials, nil},
			"this node itself":         {a.creds, nil},
			"a peer, removed":          {denied, nil},
			"a peer, expired":          {leaf(t, w.ca, b.id(), profilepb.Role_ROLE_WORKER, time.Now().Add(-2*time.Hour), time.Hour), nil},
			"a peer's boot leaf":       {leaf(t, w.ca, b.id(), profilepb.Role_ROLE_BOOT, time.Now(), time.Hour), nil},
			"X25519 alone":             {b.creds, x25519},
			"TLS 1.2": {b.creds, func(c *tls.Config) {
				c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			}},
			"another protocol":      {b.creds, func(c *tls.Config) { c.NextProtos = []string{"h2"} }},
			"two protocols":         {b.creds, func(c *tls.Config) { c.NextProtos = []string{Protocol, "h2"} }},
			"without a certificate": {b.creds, func(c *tls.Config) { c.GetClientCertificate = nil }},
		} {
			before := a.State()
			loose := func(cfg *tls.Config) {
				cfg.VerifyConnection = nil // it is the rogue that is looked at
				if c.change != nil {
					c.change(cfg)
				}
			}
			r, err := w.rogue(a, c.creds, loose)
			if err == nil {
				r.say(r.x.tell(announcement{keys: keys{current: freshKey()}, port: 1}, time.Now())...)
				f, err := r.next()
				if err == nil {
					t.Errorf("%s: it was told %v", name, f)
				}
				r.conn.Close()
			}
			after(time.Second)
			s := a.State()
			if s.Refused != before.Refused+1 || s.Exchanges != before.Exchanges {
				t.Errorf("%s: %d refused, %d exchanges before, then %d and %d", name, before.Refused, before.Exchanges, s.Refused, s.Exchanges)
			}
			if !a.of(b).Connected || !a.of(b).Declared {
				t.Errorf("%s: the peer's connection suffered", name)
			}
		}
		w.joined(a, b)
	})
}

// Where this node dials, the other end is held to the same.
func TestRefusedWhenDialled(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world) {
		a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
		// c answers at b's address.
		v := b.view()
		v.Underlay = c.address
		if err := a.Set(a.mesh_(15), []View{v}); err != nil {
			t.Fatal(err)
		}
		c.set(a, b, c)
		after(time.Minute)
		if s := a.of(b); s.Connected || s.Declared || !strings.Contains(s.Err, "another node") {
			t.Errorf("%+v", s)
		}
	})
}

// A peer of the node that breaks the rules of an exchange loses its connection,
// and what is in force stays so.
func TestBrokenExchanges(t *testing.T) {
	announce := func(m *peerpb.Announce) *peerpb.Frame {
		return &peerpb.Frame{Message: &peerpb.Frame_Announce{Announce: m}}
	}
	good := func(r *rogue, k key) *peerpb.Announce {
		return r.x.tell(announcement{keys: keys{current: k}, port: 51820}, time.Now())[0].GetAnnounce()
	}
	propose := func(epoch uint64, lower, higher keys) *peerpb.Frame {
		return &peerpb.Frame{Message: &peerpb.Frame_Propose{Propose: &peerpb.Propose{Epoch: epoch, Lower: lower.message(), Higher: higher.message()}}}
	}
	type story struct {
		lower bool // the rogue has the lower id
		err   string
		tell  func(t testing.TB, r *rogue, a, b *node)
	}
	for name, c := range map[string]story{
		"nothing at all":          {true, "announces, proposes or confirms nothing", func(t testing.TB, r *rogue, a, b *node) {}},
		"a frame without message": {true, "before the announcement", func(t testing.TB, r *rogue, a, b *node) { r.say(&peerpb.Frame{}) }},
		"propose without announce": {true, "before the announcement", func(t testing.TB, r *rogue, a, b *node) {
			r.say(propose(9, keys{current: freshKey()}, keys{current: freshKey()}))
		}},
		"another peer's key": {true, "claims the WireGuard key of node", func(t testing.TB, r *rogue, a, b *node) {
			r.say(announce(good(r, key(b.netd.public()))))
		}},
		"another peer's key as the next": {true, "claims the WireGuard key of node", func(t testing.TB, r *rogue, a, b *node) {
			m := good(r, freshKey())
			m.Keys.Next = b.netd.public()
			r.say(announce(m))
		}},
		"the node's own key": {true, "this node's WireGuard key", func(t testing.TB, r *rogue, a, b *node) { r.say(announce(good(r, key(a.netd.public())))) }},
		"a short key": {true, "missing or none", func(t testing.TB, r *rogue, a, b *node) {
			r.say(announce(&peerpb.Announce{Keys: &peerpb.Keys{Current: make([]byte, 31)}, ListenPort: 1}))
		}},
		"a zero key": {true, "missing or none", func(t testing.TB, r *rogue, a, b *node) {
			r.say(announce(&peerpb.Announce{Keys: &peerpb.Keys{Current: make([]byte, 32)}, ListenPort: 1}))
		}},
		"no port": {true, "out of range", func(t testing.TB, r *rogue, a, b *node) {
			m := good(r, freshKey())
			m.ListenPort = 0
			r.say(announce(m))
		}},
		"an epoch without end": {true, "too far ahead", func(t testing.TB, r *rogue, a, b *node) {
			m := good(r, freshKey())
			m.Epoch = ^uint64(0)
			r.say(announce(m))
		}},
		"keys that it did not announce": {true, "did not announce", func(t testing.TB, r *rogue, a, b *node) {
			r.say(announce(good(r, freshKey())))
			r.say(propose(9, keys{current: freshKey()}, r.x.heard.keys))
		}},
		"the same epoch again": {true, "does not follow", func(t testing.TB, r *rogue, a, b *node) {
			r.say(announce(good(r, freshKey())))
			for range 2 {
				r.say(propose(9, r.x.told.keys, r.x.heard.keys))
			}
		}},
		"commit with another tag": {true, "commits other keys", func(t testing.TB, r *rogue, a, b *node) {
			r.say(announce(good(r, freshKey())))
			r.say(propose(9, r.x.told.keys, r.x.heard.keys), &peerpb.Frame{Message: &peerpb.Frame_Commit{Commit: &peerpb.Commit{Epoch: 9, Tag: make([]byte, 16)}}})
		}},
		"never commits": {true, "confirms nothing", func(t testing.TB, r *rogue, a, b *node) {
			r.say(announce(good(r, freshKey())))
			r.say(propose(9, r.x.told.keys, r.x.heard.keys))
			if f, err := r.next(); err != nil || f.GetConfirm().GetEpoch() != 9 {
				t.Errorf("%v, %v", f, err)
			}
		}},
		"never proposes": {true, "proposes or confirms nothing", func(t testing.TB, r *rogue, a, b *node) { r.say(announce(good(r, freshKey()))) }},
		"never confirms": {false, "confirms nothing", func(t testing.TB, r *rogue, a, b *node) { r.say(announce(good(r, freshKey()))) }},
		"the higher proposes": {false, "the node with the higher id proposes", func(t testing.TB, r *rogue, a, b *node) {
			r.say(announce(good(r, freshKey())))
			r.say(propose(9, r.x.heard.keys, r.x.told.keys))
		}},
		"confirm with another tag": {false, "confirms other keys", func(t testing.TB, r *rogue, a, b *node) {
			r.say(announce(good(r, freshKey())))
			f, err := r.next()
			if f.GetPropose() == nil {
				t.Errorf("%v, %v", f, err)
			}
			r.say(&peerpb.Frame{Message: &peerpb.Frame_Confirm{Confirm: &peerpb.Confirm{Epoch: f.GetPropose().GetEpoch(), Tag: make([]byte, 16)}}})
		}},
		"confirm what nobody proposed": {false, "what nobody proposed", func(t testing.TB, r *rogue, a, b *node) {
			r.say(announce(good(r, freshKey())))
			r.say(&peerpb.Frame{Message: &peerpb.Frame_Confirm{Confirm: &peerpb.Confirm{Epoch: 1 << 40, Tag: make([]byte, 16)}}})
		}},
		"too large a frame": {true, "exceed the limit", func(t testing.TB, r *rogue, a, b *node) { r.conn.Write([]byte{0, 1, 0, 0}) }},
		"no protobuf":       {true, "malformed", func(t testing.TB, r *rogue, a, b *node) { r.conn.Write([]byte{0, 0, 0, 2, 0xff, 0xff}) }},
		"an unknown field":  {true, "unknown field", func(t testing.TB, r *rogue, a, b *node) { r.conn.Write([]byte{0, 0, 0, 4, 0xa2, 0x06, 1, 0}) }},
		"half a frame":      {true, "truncated", func(t testing.TB, r *rogue, a, b *node) { r.conn.Write([]byte{0, 0, 0, 9, 1}); r.conn.CloseWrite() }},
		"too many frames": {true, "says too much", func(t testing.TB, r *rogue, a, b *node) {
			m := good(r, freshKey())
			for range 2 * framesAtOnce {
				if r.say(announce(m)) != nil {
					return
				}
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 3)
				// a is attacked with c's certificate; c itself is silent.
				lo, b, hi := w.nodes[0], w.nodes[1], w.nodes[2]
				a, evil := hi, lo
				if !c.lower {
					a, evil = lo, hi
				}
				evil.stop()
				w.know(a, b, evil)
				after(time.Second)
				before := a.netd.peer(b.id())
				r, err := w.rogue(a, evil.creds, nil)
				if err != nil {
					t.Fatal(err)
				}
				r.next() // its announcement
				c.tell(t, r, a, b)
				r.ends()
				synctest.Wait()
				if p := a.netd.peer(evil.id()); p != nil {
					t.Errorf("it is a peer of netd's: %v", p)
				}
				if s := a.of(evil); s.Connected || s.Epoch != 0 || !strings.Contains(s.Err, c.err) {
					t.Errorf("%+v", s)
				}
				w.joined(a, b)
				if now := a.netd.peer(b.id()); string(now.PresharedKey) != string(before.PresharedKey) {
					t.Error("another pair's key changed")
				}
				for _, x := range w.nodes {
					x.stop()
				}
			})
		})
	}
}

// A peer that breaks an exchange in the middle, again and again, changes nothing
// about what is in force; and where one end has switched and the other has not,
// the next connection makes it good.
func TestCutInTheMiddle(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		a, b := w.nodes[0], w.nodes[1]
		w.know(a, b)
		after(time.Minute)
		for round := range 12 {
			a.mu.Lock()
			l := a.pairs[b.id()].link
			a.mu.Unlock()
			if l == nil {
				t.Fatal("no connection")
			}
			// Cut after some more bytes, in either direction.
			p := l.raw.(pipe).Conn.(*buffered)
			p.out.limit(20 * round)
			a.Renew()
			after(3 * time.Second)
			w.joined(a, b)
			after(time.Minute)
		}
	})
}

// Nobody gets in again with what it had before it was removed.
func TestRemovedIsCut(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		a, b := w.nodes[0], w.nodes[1]
		denied := false
		a.stop()
		a.start(func(o *Options) {
			o.Admit = func(tls.ConnectionState, net.Addr) error {
				if denied {
					return errors.New("removed")
				}
				return nil
			}
		})
		w.know(a, b)
		after(time.Second)
		w.joined(a, b)
		a.Recheck()
		after(time.Second)
		if !a.of(b).Connected {
			t.Error("a peer that is welcome was cut")
		}
		denied = true
		a.Recheck()
		after(time.Minute)
		if s := a.of(b); s.Connected {
			t.Errorf("%+v", s)
		}
		a.set(a)
		after(0)
		if a.netd.peer(b.id()) != nil {
			t.Error("a removed peer is in force")
		}
	})
}
