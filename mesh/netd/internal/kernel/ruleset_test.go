package kernel

import (
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// namespace runs fn on a thread in a network namespace of its own.
func namespace(t *testing.T, fn func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread ends here
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		fn()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func openNetfilter(t *testing.T) *Netfilter {
	t.Helper()
	n, err := OpenNetfilter()
	if err != nil {
		t.Error(err)
		runtime.Goexit()
	}
	return n
}

// An owner of a table with one set, and what it believes to be in it.
type owner struct {
	t     *testing.T
	nf    *Netfilter
	table *nftables.Table
	gen   uint32
	holds map[string]bool
	// Since gen was true: a stranger's transaction, or one of ours about the table.
	disturbed bool
}

func (o *owner) set() *nftables.Set {
	return &nftables.Set{Table: o.table, Name: "s", ID: 1, KeyType: nftables.TypeInteger}
}

// toggle puts a number into the set or takes it out; whole makes the table anew
// with it. meddle comes between the queue and the transaction.
func (o *owner) toggle(n uint32, whole bool, meddle func()) {
	o.t.Helper()
	key := string(binary.BigEndian.AppendUint32(nil, n))
	want := maps.Clone(o.holds)
	if want[key] {
		delete(want, key)
	} else {
		want[key] = true
	}
	known, calls, trusted := o.gen, 0, false
	if whole {
		known = 0
	}
	gen, err := o.nf.Commit(known, []*nftables.Table{o.table}, func(b *Batch, same bool) error {
		calls++
		if meddle != nil && calls == 1 {
			meddle()
		}
		trusted = same // of what the kernel takes
		if same && want[key] {
			return b.Add(&nftables.Set{Table: o.table, Name: "s"}, []Element{{Key: key}})
		} else if same {
			return b.Remove(&nftables.Set{Table: o.table, Name: "s"}, []Element{{Key: key}})
		}
		b.Words().AddTable(o.table)
		b.Words().DelTable(o.table)
		b.Words().AddTable(o.table)
		if err := b.Words().AddSet(o.set(), nil); err != nil {
			return err
		}
		var all []Element
		for k := range want {
			all = append(all, Element{Key: k})
		}
		return b.Add(o.set(), all)
	})
	if err != nil {
		o.t.Error(err)
		return
	}
	if trusted != (known != 0 && !o.disturbed) { // meddle disturbs it as well
		o.t.Errorf("made as a difference: %v, known: %d, disturbed: %v", trusted, known, o.disturbed)
	}
	if now, err := o.nf.Generation(); err != nil || now != gen {
		o.t.Errorf("generation %d, it is said to be %d (%v)", now, gen, err)
	}
	o.gen, o.holds, o.disturbed = gen, want, false
}

func (o *owner) check() {
	o.t.Helper()
	gen, ok, err := o.nf.Holds(o.gen, o.table)
	if err != nil || ok == o.disturbed {
		o.t.Errorf("holds since %d: %v, disturbed: %v (%v)", o.gen, ok, o.disturbed, err)
	}
	found := make(map[string]bool)
	at, err := o.nf.Read(func() error {
		return o.nf.EachElement(o.set(), func() { clear(found) }, func(key, _ []byte, _ bool) { found[string(key)] = true })
	})
	if ok && (err != nil || at != gen || !maps.Equal(found, o.holds)) {
		o.t.Errorf("the table has %d numbers, is believed to have %d; generation %d, then %d (%v)", len(found), len(o.holds), gen, at, err)
	}
}

// Whatever the order of transactions, of ours about several tables and of
// strangers about any: who trusts what it knows is right, and who could is not in
// doubt.
func TestStrangersAreNoticed(t *testing.T) {
	t.Parallel()
	namespace(t, func() {
		var owners []*owner
		first := openNetfilter(t)
		defer first.Close()
		for i, table := range []*nftables.Table{{Name: "a", Family: nftables.TableFamilyINet}, {Name: "b", Family: nftables.TableFamilyINet}, {Name: "a", Family: nftables.TableFamilyIPv4}} {
			nf := first
			if i > 0 {
				nf = openNetfilter(t)
				defer nf.Close()
			}
			owners = append(owners, &owner{t: t, nf: nf, table: table, holds: map[string]bool{}})
			owners[i].toggle(0, false, nil)
		}
		// Another owner of a table that has one, as one that is about to take its place.
		twin := &owner{t: t, nf: first, table: owners[0].table, holds: map[string]bool{}, disturbed: true}
		disturb := func(hit func(*owner) bool) {
			for _, o := range append(owners, twin) {
				o.disturbed = o.disturbed || hit(o)
			}
		}
		c, err := nftables.New(nftables.AsLasting())
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseLasting()
		stranger := func() {
			err := func() error {
				switch table := owners[rand.N(len(owners))].table; rand.N(4) {
				case 0: // at a table of ours
					key := binary.BigEndian.AppendUint32(nil, rand.Uint32())
					if err := c.SetAddElements(&nftables.Set{Table: table, Name: "s", KeyType: nftables.TypeInteger}, []nftables.SetElement{{Key: key}}); err != nil {
						return err
					}
				case 1:
					c.DelTable(table)
					c.AddTable(table)
					if err := c.AddSet(&nftables.Set{Table: table, Name: "s", ID: 1, KeyType: nftables.TypeInteger}, nil); err != nil {
						return err
					}
				default: // or at one of its own
					c.AddTable(&nftables.Table{Name: "c", Family: nftables.TableFamilyINet})
					c.AddChain(&nftables.Chain{Table: &nftables.Table{Name: "c", Family: nftables.TableFamilyINet}, Name: "c"})
				}
				return c.Flush()
			}()
			if err != nil {
				t.Error(err)
			}
			disturb(func(*owner) bool { return true })
		}
		for range 3000 {
			o := owners[rand.N(len(owners))]
			if rand.N(8) == 0 {
				o = twin
			}
			switch n := rand.N(20); {
			case n < 2:
				stranger()
			case n < 10:
				var meddle func()
				if rand.N(8) == 0 {
					meddle = stranger
				}
				o.toggle(1+rand.Uint32N(20), rand.N(8) == 0, meddle)
				disturb(func(x *owner) bool { return x != o && x.table == o.table })
			default:
				o.check()
			}
			if t.Failed() {
				return
			}
		}
	})
}

// A transaction that asks for what is there makes no generation: the next one is the
// stranger's who makes it.
func TestIdleTransactions(t *testing.T) {
	t.Parallel()
	namespace(t, func() {
		nf := openNetfilter(t)
		defer nf.Close()
		table := &nftables.Table{Name: "a", Family: nftables.TableFamilyINet}
		o := &owner{t: t, nf: nf, table: table, holds: map[string]bool{}}
		o.toggle(7, false, nil)
		gen, err := nf.Commit(o.gen, []*nftables.Table{table}, func(b *Batch, _ bool) error {
			return b.Add(&nftables.Set{Table: table, Name: "s"}, []Element{{Key: "\x00\x00\x00\x07"}})
		})
		if err != nil || gen != o.gen {
			t.Errorf("generation %d and then %d (%v)", o.gen, gen, err)
		}
		o.check()
		c, err := nftables.New()
		if err != nil {
			t.Error(err)
			return
		}
		if err := c.SetDeleteElements(&nftables.Set{Table: table, Name: "s", KeyType: nftables.TypeInteger}, []nftables.SetElement{{Key: []byte{0, 0, 0, 7}}}); err != nil {
			t.Error(err)
		}
		if err := c.Flush(); err != nil {
			t.Error(err)
		}
		o.gen, o.disturbed = gen, true
		o.check()
	})
}

// What is known ends with the last user: it is not taken for another namespace's.
func TestRulesetIsReleased(t *testing.T) {
	t.Parallel()
	var cookies [2]uint64
	for i := range cookies {
		namespace(t, func() {
			a, b := openNetfilter(t), openNetfilter(t)
			if a.ruleset != b.ruleset {
				t.Error("two of one namespace do not share what is known of it")
			}
			cookies[i] = a.ruleset.cookie
			a.Close()
			rulesets.Lock()
			if rulesets.of[cookies[i]] == nil {
				t.Error("forgotten while somebody uses it")
			}
			rulesets.Unlock()
			b.Close()
			rulesets.Lock()
			defer rulesets.Unlock()
			if rulesets.of[cookies[i]] != nil {
				t.Error("kept though nobody uses it")
			}
		})
	}
	if cookies[0] == cookies[1] || cookies[0] == 0 {
		t.Errorf("two namespaces are told by %d and %d", cookies[0], cookies[1])
	}
}

// Generations go round, and leave 0 out.
func TestGenerationsGoRound(t *testing.T) {
	const most = 1<<32 - 1
	a, b := []*nftables.Table{{Name: "a"}}, []*nftables.Table{{Name: "b"}}
	r := &ruleset{written: map[tableName]uint32{}}
	r.made(most-1, most, map[tableName]bool{{name: "a"}: true})
	r.made(most, 1, map[tableName]bool{{name: "b"}: true})
	for _, c := range []struct {
		known  uint32
		tables []*nftables.Table
		ok     bool
	}{{most - 2, a, false}, {most - 1, a, false}, {most, a, true}, {1, a, true}, {2, a, false}, {0, a, false}, {most - 1, b, false}, {most, b, false}, {1, b, true}} {
		if last, ok := r.holds(c.known, c.tables); ok != c.ok || ok && last != 1 {
			t.Errorf("table %s known at %d: %v at %d", c.tables[0].Name, c.known, ok, last)
		}
	}
}
