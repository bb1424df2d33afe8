package netd

import "github.com/redoubt-cluster/redoubt/mesh/netd/internal/hold"

// holds are the published ports that endpoints have in the node's book.
type holds struct {
	book  *hold.Book
	taken map[hold.Port]bool
}

func (p port) hold() hold.Port { return hold.Port{UDP: p.udp, Host: p.host, Number: p.published} }

// take holds the endpoint's ports, in the calling thread's namespace. It takes
// all or none.
func (h holds) take(e endpoint) error {
	var taken []hold.Port
	for _, p := range e.ports {
		k := p.hold()
		if h.taken[k] {
			continue // from before: perhaps of the task this one replaces
		}
		if err := h.book.Take(k); err != nil {
			for _, k := range taken {
				h.release(k)
			}
			return err
		}
		h.taken[k] = true
		taken = append(taken, k)
	}
	return nil
}

func (h holds) release(k hold.Port) {
	h.book.Release(k)
	delete(h.taken, k)
}

// keep releases every port that no endpoint publishes.
func (h holds) keep(endpoints []endpoint) {
	wanted := make(map[hold.Port]bool)
	for _, e := range endpoints {
		for _, p := range e.ports {
			wanted[p.hold()] = true
		}
	}
	for k := range h.taken {
		if !wanted[k] {
			h.release(k)
		}
	}
}
