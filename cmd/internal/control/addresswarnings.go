package control

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// addressWarnings tells of addresses at which more than one node is, and of nodes whose
// session was replaced from elsewhere while it lived. A stolen worker that reaches
// managers by way of another host has that host's address, and so has containers
// elsewhere kept from it; who has copied its key shows up like this too. Nodes behind
// one router do as well, and one that moved.
func addressWarnings(r *raftstore.ReadTx, warn func(string, ...any)) {
	shared := schedstore.Shared(r)
	addrs := make([]netip.Addr, 0, len(shared))
	for a := range shared {
		addrs = append(addrs, a)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	for _, a := range addrs[:min(len(addrs), maxNamed)] {
		var names []string
		for _, id := range shared[a] {
			names = append(names, nodeName(r, id))
		}
		slices.Sort(names)
		warn("nodes %s are all at %s: unless a router stands before them, one leads its session by the other's host: `redoubt node inspect`", namesOf(names), a)
	}
	if more := len(addrs) - maxNamed; more > 0 {
		warn("nodes share %d more addresses", more)
	}
	var replaced []string
	for n := range schedstore.Nodes.All(r) {
		if replacedLately(r, n) {
			replaced = append(replaced, nodeName(r, n.GetId()))
		}
	}
	if len(replaced) > 0 {
		slices.Sort(replaced)
		warn("the session of %s was replaced from another address while it lived: unless it moved, its key is in use elsewhere: `redoubt node inspect`, and `redoubt node revoke`", namesOf(replaced))
	}
}

// replacedLately reports whether a node's session was replaced from another address
// while it lived.
func replacedLately(r *raftstore.ReadTx, n *schedulerpb.Node) bool {
	return n.GetAddressBefore() != "" && r.Clock().Sub(time.Unix(0, n.GetAddressSince())) < warnReplaced
}

// namesOf lists some of them, and how many more there are.
func namesOf(names []string) string {
	text := strings.Join(names[:min(len(names), maxNamed)], ", ")
	if more := len(names) - maxNamed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
