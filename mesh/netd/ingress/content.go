package ingress

import (
	"bytes"
	"maps"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// A content is what the tables of one namespace are to hold. It is compared with
// another one, and what differs is told to the kernel in one transaction.
type content struct {
	tables []*nftables.Table
	specs  []nftables.Set // form of the sets, each with its table
	// fixed makes the rules whose form is always the same; frame identifies what
	// varies in them: another one makes all of it anew.
	fixed func(b *builder)
	frame string
	sets  map[string]elements
	// balance are the ports' chains: how many places a port has in setBackends,
	// which take turns. hooks are chains at a device's exit. Both by name.
	balance map[string]balance
	hooks   map[string]bool
}

type balance struct {
	port port
	n    uint32
}

// elements are keys and what they map to; nil in a set.
type elements map[string][]byte

// same reports whether nothing differs.
func (c *content) same(d *content) bool {
	return c.frame == d.frame && maps.EqualFunc(c.sets, d.sets, func(a, b elements) bool { return maps.EqualFunc(a, b, bytes.Equal) }) &&
		maps.Equal(c.balance, d.balance) && maps.Equal(c.hooks, d.hooks)
}

// A builder queues one batch. Errors of the library are kept for the end.
type builder struct {
	conn  *nftables.Conn
	table *nftables.Table
	setID uint32
	err   error
	sets  map[string]*nftables.Set
}

func (c *content) builder(conn *nftables.Conn) *builder {
	b := &builder{conn: conn, table: c.tables[0], sets: map[string]*nftables.Set{}}
	for _, s := range c.specs {
		b.sets[s.Name] = &s
	}
	return b
}

func (b *builder) keep(err error) {
	if b.err == nil {
		b.err = err
	}
}

func (b *builder) base(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
	policy := nftables.ChainPolicyAccept
	return b.conn.AddChain(&nftables.Chain{Table: b.table, Name: name, Type: kind, Hooknum: hook, Priority: &priority, Policy: &policy})
}

func (b *builder) rule(c *nftables.Chain, ms ...match) {
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: c, Exprs: slices.Concat(ms...)})
}

// number gives a set its own: the library's counter is shared and unguarded.
func (b *builder) number(s *nftables.Set) *nftables.Set {
	b.setID++
	s.ID = b.setID
	return s
}

func (b *builder) counter(name string) {
	b.conn.AddObj(&nftables.NamedObj{Table: b.table, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
}

func (b *builder) add(s *nftables.Set, all []nftables.SetElement) {
	for part := range slices.Chunk(all, maxElementsPerMessage) {
		b.keep(b.conn.SetAddElements(s, part))
	}
}

// build queues all of it, in the place of what is there.
func (c *content) build(conn *nftables.Conn) error {
	b := c.builder(conn)
	for _, t := range c.tables {
		conn.AddTable(t) // deleting what does not exist is an error
		conn.DelTable(t)
		conn.AddTable(t)
	}
	for _, s := range c.specs {
		b.keep(conn.AddSet(b.number(b.sets[s.Name]), nil))
	}
	c.fixed(b)
	for _, name := range slices.Sorted(maps.Keys(c.balance)) {
		b.balance(c.tables[0], name, c.balance[name], true)
	}
	for _, name := range slices.Sorted(maps.Keys(c.hooks)) {
		b.hook(c.tables[1], name)
	}
	for name, set := range c.sets {
		var all []nftables.SetElement
		for key := range set {
			all = append(all, b.element(name, key, set[key]))
		}
		b.add(b.sets[name], all)
	}
	return b.err
}

// element is what a set holds; one of a map of verdicts leads to a chain.
func (b *builder) element(set, key string, val []byte) nftables.SetElement {
	e := nftables.SetElement{Key: []byte(key), Val: val}
	if b.sets[set].DataType == nftables.TypeVerdict {
		e.VerdictData, e.Val = &expr.Verdict{Kind: expr.VerdictGoto, Chain: string(val)}, nil
	}
	return e
}

// change queues what makes this the other.
func (c *content) change(conn *nftables.Conn, to *content) error {
	b := to.builder(conn) // its sets have no numbers: they are there, by name
	// Elements go first, then chains change, then elements come: an element
	// leads to a chain that is there.
	for name, was := range c.sets {
		var gone []nftables.SetElement
		for key, val := range was {
			if now, ok := to.sets[name][key]; !ok || !bytes.Equal(now, val) {
				gone = append(gone, b.element(name, key, val))
			}
		}
		for part := range slices.Chunk(gone, maxElementsPerMessage) {
			b.keep(conn.SetDeleteElements(b.sets[name], part))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.balance)) {
		if _, stays := to.balance[name]; !stays {
			chain := &nftables.Chain{Table: c.tables[0], Name: name}
			conn.FlushChain(chain)
			conn.DelChain(chain)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(to.balance)) {
		if was, there := c.balance[name]; !there || was != to.balance[name] {
			b.balance(to.tables[0], name, to.balance[name], !there)
		}
	}
	for name := range c.hooks {
		if !to.hooks[name] {
			chain := &nftables.Chain{Table: c.tables[1], Name: name}
			conn.FlushChain(chain)
			conn.DelChain(chain)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(to.hooks)) {
		if !c.hooks[name] {
			b.hook(to.tables[1], name)
		}
	}
	for name, now := range to.sets {
		var come []nftables.SetElement
		for key, val := range now {
			if was, ok := c.sets[name][key]; !ok || !bytes.Equal(was, val) {
				come = append(come, b.element(name, key, val))
			}
		}
		b.add(b.sets[name], come)
	}
	return b.err
}

// balance makes the chain that leads each new flow to the next place.
func (b *builder) balance(t *nftables.Table, name string, to balance, fresh bool) {
	chain := &nftables.Chain{Table: t, Name: name}
	if fresh {
		b.conn.AddChain(chain)
	} else {
		b.conn.FlushChain(chain)
	}
	b.conn.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: balanced(b.sets[setBackends], to)})
}

// hook makes the chain that gives frames on their way out of a device the MAC of
// the entry node that their mark names.
func (b *builder) hook(t *nftables.Table, device string) {
	accept, priority := nftables.ChainPolicyAccept, nftables.ChainPriority(0)
	chain := b.conn.AddChain(&nftables.Chain{Table: t, Name: device, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookEgress, Priority: &priority, Policy: &accept, Device: device})
	b.conn.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: toEntry(b.sets[setNodes])})
}
