package named

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/redoubt-cluster/redoubt/mesh/named/namedpb"
)

// network is everything that sandboxes on one network may be told. It is made
// once and not changed: readers need no lock.
type network struct {
	names   map[string]named
	reverse map[netip.Addr]string
	subnets []netip.Prefix
}

// named is what a name means. Where two things have one name, the lower rank has
// it alone: an alias never takes traffic from the service of that name. What has
// the same rank is put together.
type named struct {
	rank uint8
	*record
}

const (
	rankService uint8 = iota
	rankMade          // from a service's name
	rankAlias
	rankTask  // a name of one task
	rankAbove // nothing but that other names end in it
)

// record is shared by all names of one thing.
type record struct {
	v4, v6 []netip.Addr
	srv    []target
}

type target struct {
	name string
	port uint16
	to   *record
}

func makeNetwork(p *namedpb.Network) (*network, error) {
	n := &network{names: map[string]named{}, reverse: map[netip.Addr]string{}}
	var err error
	if n.subnets, err = prefixes("subnet", p.GetSubnets(), maxSubnets); err != nil {
		return nil, err
	}
	for _, s := range p.GetServices() {
		if err := n.addService(s); err != nil {
			return nil, fmt.Errorf("service %q: %w", s.GetName(), err)
		}
	}
	for name := range n.names {
		for {
			var ok bool
			if _, name, ok = strings.Cut(name, "."); !ok {
				break
			}
			if _, there := n.names[name]; there {
				break // and so is all above it, or will be
			}
			n.names[name] = named{rankAbove, new(record)}
		}
	}
	if len(n.names) > maxNamesPerNetwork {
		return nil, fmt.Errorf("%d names: at most %d are allowed in a network", len(n.names), maxNamesPerNetwork)
	}
	return n, nil
}

func (n *network) addService(p *namedpb.Service) error {
	name, err := foldLabel("name", p.GetName())
	if err != nil {
		return err
	}
	aliases := make([]string, 0, len(p.GetAliases()))
	if len(p.GetAliases()) > maxAliases || len(p.GetPorts()) > maxPorts {
		return fmt.Errorf("%d aliases and %d ports: at most %d and %d are allowed", len(p.GetAliases()), len(p.GetPorts()), maxAliases, maxPorts)
	}
	for _, a := range p.GetAliases() {
		if a, err = fold("alias", a); err != nil {
			return err
		}
		aliases = append(aliases, a)
	}
	all, whole := new(record), new(record) // of the tasks; of the service
	if err := whole.add(p.GetVips()); err != nil {
		return err
	}
	var ready []target
	for _, t := range p.GetTasks() {
		if !t.GetReady() {
			continue
		}
		one, own, err := n.addTask(name, t)
		if err != nil {
			return fmt.Errorf("task %q: %w", t.GetId(), err)
		}
		all.v4, all.v6 = append(all.v4, one.v4...), append(all.v6, one.v6...)
		ready = append(ready, target{name: own, to: one})
	}
	targets := []target{{name: name, to: whole}}
	if len(p.GetVips()) == 0 {
		whole, targets = all, ready
	}
	n.put(name, rankService, whole)
	n.put("tasks."+name, rankMade, all)
	for _, a := range aliases {
		n.put(a, rankAlias, whole)
		n.put("tasks."+a, rankAlias, all)
	}
	n.turn(whole, name)
	for _, port := range p.GetPorts() {
		if err := n.addPort(name, port, targets, ready); err != nil {
			return err
		}
	}
	if len(n.names) > maxNamesPerNetwork {
		return fmt.Errorf("more than %d names in a network", maxNamesPerNetwork)
	}
	return nil
}

// addTask returns the task's addresses and the name it has in this network.
func (n *network) addTask(service string, p *namedpb.Task) (*record, string, error) {
	r := new(record)
	if err := r.add(p.GetAddresses()); err != nil {
		return nil, "", err
	}
	own := "tasks." + service
	if p.GetSlot() != 0 {
		own = strconv.FormatUint(p.GetSlot(), 10) + "." + service
		n.put(own, rankMade, r)
	}
	if len(p.GetNames()) > maxAliases {
		return nil, "", fmt.Errorf("%d names: at most %d are allowed", len(p.GetNames()), maxAliases)
	}
	for i, s := range p.GetNames() {
		s, err := fold("name", s)
		if err != nil {
			return nil, "", err
		}
		n.put(s, rankTask, r)
		if i == 0 && p.GetSlot() == 0 {
			own = s
		}
	}
	n.turn(r, own)
	return r, own, nil
}

func (n *network) addPort(service string, p *namedpb.Port, targets, ready []target) error {
	name, err := foldLabel("port", p.GetName())
	if err != nil {
		return err
	}
	if p.GetPort() == 0 || p.GetPort() > 65535 {
		return fmt.Errorf("port %q: %d is no port", name, p.GetPort())
	}
	proto := "_tcp."
	if p.GetUdp() {
		proto = "_udp."
	}
	at := func(ts []target) *record {
		r := &record{srv: make([]target, len(ts))}
		for i, t := range ts {
			r.srv[i] = target{t.name, uint16(p.GetPort()), t.to}
		}
		return r
	}
	n.put("_"+name+"."+proto+service, rankMade, at(targets))
	n.put("_"+name+"."+proto+"tasks."+service, rankMade, at(ready))
	return nil
}

// put gives r a name; names too long to be asked for are left out.
func (n *network) put(name string, rank uint8, r *record) {
	if len(name) > maxName {
		return
	}
	have, ok := n.names[name]
	switch {
	case !ok || rank < have.rank:
		n.names[name] = named{rank, r}
	case rank == have.rank && have.record != r:
		n.names[name] = named{rank, &record{
			v4:  append(have.v4[:len(have.v4):len(have.v4)], r.v4...),
			v6:  append(have.v6[:len(have.v6):len(have.v6)], r.v6...),
			srv: append(have.srv[:len(have.srv):len(have.srv)], r.srv...)}}
	}
}

// turn makes r's addresses mean name, where they mean none yet.
func (n *network) turn(r *record, name string) {
	for _, list := range [][]netip.Addr{r.v4, r.v6} {
		for _, a := range list {
			if n.reverse[a] == "" {
				n.reverse[a] = name
			}
		}
	}
}

func (r *record) add(addrs []string) error {
	if len(addrs) > maxAddresses {
		return fmt.Errorf("%d addresses: at most %d are allowed", len(addrs), maxAddresses)
	}
	for _, s := range addrs {
		a, err := address(s)
		if err != nil {
			return err
		}
		if a.Is4() {
			r.v4 = append(r.v4, a)
		} else {
			r.v6 = append(r.v6, a)
		}
	}
	return nil
}

func (r *record) addrs(v6 bool) []netip.Addr {
	if v6 {
		return r.v6
	}
	return r.v4
}

// address is one that a container can be told: no zone, none that means itself
// or everybody.
func address(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return a, fmt.Errorf("%q is no address", s)
	}
	if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() {
		return a, fmt.Errorf("%s is no address of a network", a)
	}
	return a, nil
}

func prefixes(what string, list []string, most int) ([]netip.Prefix, error) {
	if len(list) > most {
		return nil, fmt.Errorf("%d of %s: at most %d are allowed", len(list), what, most)
	}
	var out []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil || p.Addr().Is4In6() || p != p.Masked() {
			return nil, errors.New(what + " " + strconv.Quote(s) + " is no prefix of a network")
		}
		out = append(out, p)
	}
	return out, nil
}
