package ingress

import (
	"maps"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
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
	// parts are of a service each, by its id, and under "" what is of none. No
	// two have an element or a chain in common.
	parts map[string]*part
}

// A part of a content is never changed once it is made: two contents have it in
// common where nothing of it differs.
type part struct {
	sets map[string]elements
	// balance are the ports' chains: how many places a port has in setBackends,
	// which take turns. hooks are chains at a device's exit. Both by name.
	balance map[string]balance
	hooks   map[string]bool
}

type balance struct {
	port port
	n    uint32
}

// elements are keys and what they map to: bytes, a chain's name, or nothing in a
// set.
type elements map[string]string

func newPart() *part {
	return &part{sets: make(map[string]elements), balance: make(map[string]balance), hooks: make(map[string]bool)}
}

func (p *part) put(set string, key, val []byte) {
	if p.sets[set] == nil {
		p.sets[set] = make(elements)
	}
	p.sets[set][string(key)] = string(val)
}

// join adds what the other has.
func (p *part) join(o *part) {
	for name, set := range o.sets {
		if p.sets[name] == nil {
			p.sets[name] = make(elements, len(set))
		}
		maps.Copy(p.sets[name], set)
	}
	maps.Copy(p.balance, o.balance)
	maps.Copy(p.hooks, o.hooks)
}

func (p *part) same(o *part) bool {
	return p == o || maps.EqualFunc(p.sets, o.sets, func(a, b elements) bool { return maps.Equal(a, b) }) &&
		maps.Equal(p.balance, o.balance) && maps.Equal(p.hooks, o.hooks)
}

// same reports whether nothing differs.
func (c *content) same(d *content) bool {
	return c.frame == d.frame && maps.EqualFunc(c.parts, d.parts, (*part).same)
}

// whole are all parts as one.
func (c *content) whole() *part {
	all := newPart()
	for _, p := range c.parts {
		all.join(p)
	}
	return all
}

// differences are the parts that are not the same in both, of either as one.
func (c *content) differences(to *content) (was, now *part) {
	was, now = newPart(), newPart()
	for id, p := range c.parts {
		if q := to.parts[id]; q == nil {
			was.join(p)
		} else if !p.same(q) {
			was.join(p)
			now.join(q)
		}
	}
	for id, q := range to.parts {
		if c.parts[id] == nil {
			now.join(q)
		}
	}
	return was, now
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

// build queues all of it, in the place of what is there.
func (c *content) build(to *kernel.Batch) error {
	conn, all := to.Words(), c.whole()
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
	for _, name := range slices.Sorted(maps.Keys(all.balance)) {
		b.balance(c.tables[0], name, all.balance[name], true)
	}
	for _, name := range slices.Sorted(maps.Keys(all.hooks)) {
		b.hook(c.tables[1], name)
	}
	for name, set := range all.sets {
		b.queue(to.Add, name, set, nil)
	}
	return b.err
}

// queue hands to op what a set has and the other has not.
func (b *builder) queue(op func(*nftables.Set, []kernel.Element) error, name string, set, but elements) {
	list := make([]kernel.Element, 0, len(set))
	for key, val := range set {
		if other, ok := but[key]; !ok || other != val {
			list = append(list, element(b.sets[name], key, val))
		}
	}
	b.keep(op(b.sets[name], list))
}

// element is what a set holds; one of a map of verdicts leads to a chain.
func element(set *nftables.Set, key, val string) kernel.Element {
	if set.DataType == nftables.TypeVerdict {
		return kernel.Element{Key: key, Chain: val}
	}
	return kernel.Element{Key: key, Val: val}
}

// change queues what makes this the other, and returns the chains of the first
// table that are others then.
func (c *content) change(batch *kernel.Batch, to *content) (chains []string, err error) {
	b, conn := to.builder(batch.Words()), batch.Words() // its sets have no numbers: they are there, by name
	was, now := c.differences(to)
	// Elements go first, then chains change, then elements come: an element
	// leads to a chain that is there.
	for name, set := range was.sets {
		b.queue(batch.Remove, name, set, now.sets[name])
	}
	for _, name := range slices.Sorted(maps.Keys(was.balance)) {
		if _, stays := now.balance[name]; !stays {
			chain := &nftables.Chain{Table: c.tables[0], Name: name}
			conn.FlushChain(chain)
			conn.DelChain(chain)
			chains = append(chains, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now.balance)) {
		if before, there := was.balance[name]; !there || before != now.balance[name] {
			b.balance(to.tables[0], name, now.balance[name], !there)
			chains = append(chains, name)
		}
	}
	for name := range was.hooks {
		if !now.hooks[name] {
			chain := &nftables.Chain{Table: c.tables[1], Name: name}
			conn.FlushChain(chain)
			conn.DelChain(chain)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now.hooks)) {
		if !was.hooks[name] {
			b.hook(to.tables[1], name)
		}
	}
	for name, set := range now.sets {
		b.queue(batch.Add, name, set, was.sets[name])
	}
	return chains, b.err
}

// inForce reports whether the kernel's sets have these elements, and no others.
func (c *content) inForce(nf *kernel.Netfilter) (bool, error) {
	all := c.whole()
	for _, s := range c.specs {
		want, count, differs := all.sets[s.Name], 0, false
		err := nf.EachElement(&s, func() { count, differs = 0, false }, func(key, told []byte, _ bool) {
			count++
			val, ok := want[string(key)]
			differs = differs || !ok || element(&s, "", val).Told() != string(told)
		})
		if err != nil || differs || count != len(want) {
			return false, err
		}
	}
	return true, nil
}

// balance makes the chain that leads each new flow to the next place.
func (b *builder) balance(t *nftables.Table, name string, to balance, fresh bool) {
	chain := &nftables.Chain{Table: t, Name: name}
	if fresh {
		b.conn.AddChain(chain)
	} else {
		b.conn.FlushChain(chain)
	}
	b.conn.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: balanced(b.sets[setBackends+familyOf(to.port.Host).suffix], to)})
}

// hook makes the chain that gives frames on their way out of a device the MAC of
// the entry node that their mark names.
func (b *builder) hook(t *nftables.Table, device string) {
	accept, priority := nftables.ChainPolicyAccept, nftables.ChainPriority(0)
	chain := b.conn.AddChain(&nftables.Chain{Table: t, Name: device, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookEgress, Priority: &priority, Policy: &accept, Device: device})
	b.conn.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: toEntry(b.sets[setNodes])})
}
