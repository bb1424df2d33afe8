package peer

import (
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/peer/peerpb"
	"github.com/redoubt-cluster/redoubt/pki"
)

// said makes a frame of a statement that by signed in the name of node; "" is the
// sender's own.
func (s *statement) said(t testing.TB, by *pki.Credentials, signed, node string) *peerpb.Frame {
	t.Helper()
	b, err := s.encode()
	if err != nil {
		t.Fatal(err)
	}
	chain, signature, err := by.Say(signedOf(signed, b))
	if err != nil {
		t.Fatal(err)
	}
	return &peerpb.Frame{Message: &peerpb.Frame_Said{Said: &peerpb.Said{Node: node, Statement: b, Chain: chain, Signature: signature}}}
}

// A peer that lies about others, repeats them, or says too much changes nothing of
// what is known of them; it is counted, and its connection, which its tunnel depends
// on, goes on.
func TestLies(t *testing.T) {
	bubble(t, 4, func(t *testing.T, w *world) {
		a, b, c, evil := w.nodes[3], w.nodes[0], w.nodes[1], w.nodes[2]
		n, apart, alone := ident.New(), ident.New(), ident.New() // apart: without b, alone: without evil
		mine, task := ident.New(), ident.New()
		evil.stop()
		w.know(a, b, c, evil)
		w.share(n, a, b, c, evil)
		w.share(apart, a, evil)
		w.share(alone, a, b)
		b.Tell(n, map[string]bool{task: false})
		after(time.Second)
		b.Tell(n, map[string]bool{task: true})
		b.Tell(alone, map[string]bool{task: true})
		after(time.Second)
		truth := b.speech.words[n]
		r, err := w.rogue(a, evil.creds, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.next()
		r.say(r.x.tell(announcement{keys: keys{current: freshKey()}, port: 1}, time.Now())...)
		after(0)
		boot, now := b.speech.boot, time.Now()
		lie := func(sequence uint64) *statement {
			return &statement{n, number{boot, sequence}, now, map[string]bool{task: false}}
		}
		altered := lie(9).said(t, evil.creds, b.id(), b.id())
		altered.GetSaid().Signature, altered.GetSaid().Chain = truth.said.Signature, truth.said.Chain
		long := lie(9).said(t, evil.creds, evil.id(), "")
		long.GetSaid().Pass = make([]string, maxPass+1)
		for i := range long.GetSaid().Pass {
			long.GetSaid().Pass[i] = ident.New()
		}
		large := lie(9)
		for range maxSaid {
			large.tasks[ident.New()] = true
		}
		other := lie(9)
		other.network = alone
		foreign := lie(9)
		foreign.network = apart
		old := lie(9)
		old.made = now.Add(-relayWithin - time.Second)
		early := lie(9)
		early.made = now.Add(relayWithin + time.Minute)
		named := lie(9).said(t, evil.creds, evil.id(), evil.id())
		nobody := ident.New()
		for name, x := range map[string]struct {
			frame *peerpb.Frame
			count func(Statements) uint64
		}{
			"signed by itself":          {lie(9).said(t, evil.creds, b.id(), b.id()), func(s Statements) uint64 { return s.Forged }},
			"with the right one's":      {altered, func(s Statements) uint64 { return s.Forged }},
			"for another node":          {lie(9).said(t, b.creds, c.id(), b.id()), func(s Statements) uint64 { return s.Forged }},
			"as its own":                {lie(9).said(t, b.creds, b.id(), ""), func(s Statements) uint64 { return s.Forged }},
			"of before":                 {lie(truth.sequence-1).said(t, b.creds, b.id(), b.id()), func(s Statements) uint64 { return s.Replayed }},
			"again":                     {&peerpb.Frame{Message: &peerpb.Frame_Said{Said: &peerpb.Said{Node: b.id(), Statement: truth.said.Statement, Signature: truth.said.Signature, Chain: truth.said.Chain}}}, func(s Statements) uint64 { return s.Repeated }},
			"of long ago":               {old.said(t, b.creds, b.id(), b.id()), func(s Statements) uint64 { return s.Stale }},
			"of the future":             {early.said(t, b.creds, b.id(), b.id()), func(s Statements) uint64 { return s.Stale }},
			"of a later process":        {(&statement{n, number{boot + 1, 9}, now, nil}).said(t, b.creds, b.id(), b.id()), func(s Statements) uint64 { return s.Replayed }},
			"of a network it is not on": {other.said(t, b.creds, b.id(), b.id()), func(s Statements) uint64 { return s.Foreign }},
			"where the other is not":    {foreign.said(t, b.creds, b.id(), b.id()), func(s Statements) uint64 { return s.Foreign }},
			"of a stranger":             {lie(9).said(t, evil.creds, nobody, nobody), func(s Statements) uint64 { return s.Foreign }},
			"in its own name, named":    {named, func(s Statements) uint64 { return s.Malformed }},
			"too many to pass it to":    {long, func(s Statements) uint64 { return s.Malformed }},
			"too many tasks":            {large.said(t, evil.creds, evil.id(), ""), func(s Statements) uint64 { return s.Malformed }},
			"nothing":                   {&peerpb.Frame{Message: &peerpb.Frame_Said{Said: &peerpb.Said{}}}, func(s Statements) uint64 { return s.Malformed }},
		} {
			before := a.State().Statements
			if err := r.say(x.frame); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			after(0)
			s := a.State().Statements
			if x.count(s) != x.count(before)+1 || s.Heard != before.Heard || s.Relayed != before.Relayed || s.Passed != before.Passed {
				t.Errorf("%s: %+v, then %+v", name, before, s)
			}
			w.heard(b, n, map[string]bool{task: true}, a)
			w.heard(b, alone, map[string]bool{task: true}, a)
		}
		// What it says of itself is its own affair, whatever it is.
		own := &statement{n, number{1, 1}, now, map[string]bool{mine: true, task: false}}
		r.say(own.said(t, evil.creds, evil.id(), ""))
		after(0)
		if got := a.words.get(evil.id(), n); !maps.Equal(got, own.tasks) {
			t.Errorf("%v; %+v", got, a.State().Statements)
		}
		w.heard(b, n, map[string]bool{task: true}, a, c)
		// The truth still comes through.
		b.Tell(n, map[string]bool{task: false})
		after(0)
		w.heard(b, n, map[string]bool{task: false}, a, c)
		if !a.of(evil).Connected {
			t.Errorf("the connection ended: %+v", a.of(evil))
		}
		// One that floods is cut, and what it costs until then is bounded.
		heard := a.words.count()
		for i := range 2 * hearAtOnce {
			s := &statement{n, number{1, uint64(i) + 2}, now, nil}
			if r.say(s.said(t, evil.creds, evil.id(), "")) != nil {
				break
			}
		}
		synctest.Wait()
		if a.of(evil).Connected || a.words.count() > heard+hearAtOnce {
			t.Errorf("it goes on: %d heard", a.words.count()-heard)
		}
		w.joined(b, c)
	})
}
