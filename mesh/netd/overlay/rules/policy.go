package rules

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// policy is what services may do, where that is denied by default.
type policy struct {
	// pairs leads from who begins a flow, and to whom, to a chain.
	pairs map[string]string
	// lists are the chains' rules, in the order in which they were given. Pairs
	// with the same rules share one, and its name is made of them.
	lists map[string][]Rule
	// ids are those of all rules.
	ids map[string]bool
}

// Chains and counters by which a rule is known.
const (
	sameService = "same_service"
	listPrefix  = "allowed_"
	rulePrefix  = "rule_"
)

// newPolicy compiles the rules for the services that have endpoints.
func newPolicy(list []Rule, deny bool, services map[string]bool) (policy, map[string]number, error) {
	p := policy{pairs: make(map[string]string), lists: make(map[string][]Rule), ids: make(map[string]bool)}
	named := maps.Clone(services)
	for i := range list {
		r := &list[i]
		if err := r.check(); err != nil {
			return p, nil, fmt.Errorf("rule %q: %w", r.ID, err)
		}
		if p.ids[r.ID] {
			return p, nil, fmt.Errorf("rule %q is given twice", r.ID)
		}
		p.ids[r.ID] = true
		for _, id := range slices.Concat(r.From, r.To) {
			named[id] = true
		}
	}
	numbers := newNumbers(named)
	if !deny {
		return policy{}, numbers, nil
	}
	rules := make(map[string][]Rule)
	for i := range list {
		r := &list[i]
		for _, from := range r.From {
			for _, to := range r.To {
				k := pair(numbers[from], numbers[to])
				if have := rules[k]; len(have) > 0 && have[len(have)-1].ID == r.ID {
					continue // a service is named twice
				}
				rules[k] = append(rules[k], *r)
			}
		}
		if len(rules) > maxPairs {
			return p, nil, fmt.Errorf("rules name more than %d pairs of services: divide the network", maxPairs)
		}
	}
	for id := range services {
		k := pair(numbers[id], numbers[id])
		p.pairs[k] = sameService
		delete(rules, k)
	}
	for k, list := range rules {
		name := listName(list)
		p.pairs[k], p.lists[name] = name, list
	}
	return p, numbers, nil
}

func (r Rule) same(o Rule) bool {
	return r.ID == o.ID && r.Proto == o.Proto && r.First == o.First && r.Last == o.Last &&
		slices.Equal(r.From, o.From) && slices.Equal(r.To, o.To)
}

// narrows reports whether now may let in less than p did.
func (p *policy) narrows(now *policy) bool {
	for pair, chain := range p.pairs {
		if now.pairs[pair] != chain {
			return true
		}
	}
	return false
}

func (r *Rule) check() error {
	if err := checkID(r.ID); err != nil {
		return err
	}
	for _, id := range slices.Concat(r.From, r.To) {
		if err := checkID(id); err != nil {
			return fmt.Errorf("service: %w", err)
		}
	}
	switch anyPort := r.First == 0 && r.Last == 0; {
	case anyPort:
		return nil
	case r.First == 0 || r.Last < r.First:
		return fmt.Errorf("ports %d-%d: use 1 to 65535, the lower one first", r.First, r.Last)
	case r.Proto != unix.IPPROTO_TCP && r.Proto != unix.IPPROTO_UDP && r.Proto != unix.IPPROTO_SCTP:
		return fmt.Errorf("protocol %d has no ports", r.Proto)
	}
	return nil
}

// protocols are those a rule means; none: any.
func (r *Rule) protocols() []byte {
	switch r.Proto {
	case 0:
		return nil
	case unix.IPPROTO_ICMP:
		return []byte{unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6}
	}
	return []byte{r.Proto}
}

// allows reports whether it lets in a flow to the port.
func (r *Rule) allows(proto uint8, port uint16) bool {
	ps := r.protocols()
	return (len(ps) == 0 || slices.Contains(ps, proto)) && (r.First == 0 || r.First <= port && port <= r.Last)
}

// allows reports whether a flow between the services is let in.
func (p *policy) allows(from, to number, proto uint8, port uint16) bool {
	switch chain := p.pairs[pair(from, to)]; chain {
	case "":
		return false
	case sameService:
		return true
	default:
		return slices.ContainsFunc(p.lists[chain], func(r Rule) bool { return r.allows(proto, port) })
	}
}

func pair(from, to number) string { return from.key() + to.key() }

// listName says all that the chain is made of.
func listName(list []Rule) string {
	var b strings.Builder
	for _, r := range list {
		b.WriteString(r.ID)
		b.Write(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16([]byte{0, r.Proto}, r.First), r.Last))
	}
	sum := sha256.Sum256([]byte(b.String()))
	return listPrefix + hex.EncodeToString(sum[:16])
}
