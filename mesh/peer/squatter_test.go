package peer

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/mesh/peer/peerpb"
)

// prove shows a key, with the private half of another where it has not its own.
func (r *rogue) prove(shown, with key) []byte {
	r.t.Helper()
	from, to := r.x.ids[0], r.x.ids[1]
	if !r.x.lower {
		from, to = to, from
	}
	against := r.x.heard.keys.current
	b, err := proofOf(r.x.export, from, to, shown, against)
	if err != nil {
		r.t.Fatal(err)
	}
	tag, err := proof(with, against, b)
	if err != nil {
		r.t.Fatal(err)
	}
	r.say(&peerpb.Frame{Message: &peerpb.Frame_Prove{Prove: &peerpb.Prove{Current: tag}}})
	return tag
}

// Who announces another node's WireGuard key, before that node does, gets no peer
// entry, and the other is not kept from its own.
func TestSquatters(t *testing.T) {
	for name, show := range map[string]func(r *rogue, victim, own key, heard *peerpb.Prove){
		"that shows nothing":       func(r *rogue, victim, own key, heard *peerpb.Prove) {},
		"that shows its own key":   func(r *rogue, victim, own key, heard *peerpb.Prove) { r.prove(victim, own) },
		"that shows it for others": func(r *rogue, victim, own key, heard *peerpb.Prove) { r.prove(own, own) },
		"that shows what it was shown": func(r *rogue, victim, own key, heard *peerpb.Prove) {
			r.say(&peerpb.Frame{Message: &peerpb.Frame_Prove{Prove: heard}})
		},
		"with a proof of half the size": func(r *rogue, victim, own key, heard *peerpb.Prove) {
			r.say(&peerpb.Frame{Message: &peerpb.Frame_Prove{Prove: &peerpb.Prove{Current: make([]byte, 16)}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 3)
				a, evil, victim := w.nodes[0], w.nodes[1], w.nodes[2]
				evil.stop()
				w.know(a, evil) // the victim is not there yet
				after(time.Second)
				r, err := w.rogue(a, evil.creds, nil)
				if err != nil {
					t.Fatal(err)
				}
				r.next()
				own := freshKey()
				r.say(r.x.tell(announcement{keys: keys{current: key(victim.netd.public())}, port: 1}, time.Now())...)
				ended := make(chan struct{})
				go func() { // it goes on with the exchange of pre-shared keys, and breaks no rule there
					defer close(ended)
					for {
						f, err := r.next()
						if err != nil {
							return
						}
						if m := f.GetProve(); m != nil {
							show(r, key(victim.netd.public()), own, m)
						} else if f.GetAnnounce() == nil {
							out, _, _ := r.x.hear(f, time.Now())
							r.say(out...)
						}
					}
				}()
				after(time.Second)
				if p := a.netd.peer(evil.id()); p != nil {
					t.Errorf("the squatter is a peer of netd's: %v", p)
				}
				w.know(a, evil, victim)
				after(5 * time.Second)
				w.joined(a, victim)
				after(exchangeTimeout)
				if s := a.of(evil); s.Connected || s.Declared {
					t.Errorf("%+v", s)
				}
				if s := a.State(); s.Refused == 0 {
					t.Errorf("nobody is told: %+v", s)
				}
				w.joined(a, victim)
				r.conn.Close()
				<-ended
				for _, x := range w.nodes {
					x.stop()
				}
			})
		})
	}
}

// Of two that have the same key, as after a disk was copied, the first has it.
func TestSameKeyTwice(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world) {
		a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
		c.netd.mu.Lock()
		c.netd.own = key(b.netd.public())
		c.netd.mu.Unlock()
		w.know(a, b)
		after(time.Second)
		w.joined(a, b)
		w.know(a, b, c)
		after(time.Minute)
		w.joined(a, b)
		if s := a.of(c); s.Declared || !strings.Contains(s.Err, "claims the WireGuard key of node "+b.id()) {
			t.Errorf("%+v", s)
		}
	})
}

// A key that changes is shown anew, also where both change at once, and while netd
// does not answer for a moment.
func TestShownAgain(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world) {
		w.know(w.nodes...)
		after(time.Second)
		for range 5 {
			w.nodes[0].netd.restart()
			w.nodes[1].netd.restart()
			after(10 * time.Second)
			w.joined(w.nodes...)
		}
		w.nodes[0].netd.mu.Lock()
		w.nodes[0].netd.unable = 3
		w.nodes[0].netd.mu.Unlock()
		w.nodes[1].netd.restart()
		after(20 * time.Second)
		w.joined(w.nodes...)
	})
}
