package agent

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// relays are the processes that put PROXY protocol headers before connections to
// a task. They follow from its service's published ports as managers last said, and
// change with them while the task runs. nil: managers said nothing yet, and what
// runs stays.
func (m *machine) relays(t *task) *rundpb.Relays {
	if m.view == nil || !publishes(t.nets.last.GetSpec()) {
		return nil
	}
	out := &rundpb.Relays{}
	for _, at := range t.nets.last.GetAttachments() {
		n := m.view.Networks[at.NetworkId]
		if n == nil {
			return nil
		}
		for _, r := range n.Relays() {
			x := &rundpb.Relay{Listen: uint32(r.Listen), Addresses: at.Addresses, Published: uint32(r.Published), Target: uint32(r.Target)}
			if a := r.HostFor(); a.IsValid() {
				x.Host = a.String()
			}
			out.Relays = append(out.Relays, x)
		}
	}
	slices.SortFunc(out.Relays, func(a, b *rundpb.Relay) int { return cmp.Compare(a.Listen, b.Listen) })
	return out
}

// relaying says what a task waits for of its relays, before clients are led to it;
// empty: nothing. One that they are led to already stays so while a port is added,
// and until one of its relays fails.
func (m *machine) relaying(t *task) string {
	for _, s := range t.actual.GetRelays() {
		if !s.GetListening() && s.GetError() != "" {
			return s.GetError()
		}
	}
	if t.nets.served {
		return ""
	}
	for _, r := range m.relays(t).GetRelays() {
		if !slices.ContainsFunc(t.actual.GetRelays(), func(s *rundpb.RelayState) bool { return s.GetListening() && proto.Equal(s.GetRelay(), r) }) {
			return "waiting for what puts PROXY protocol headers before connections"
		}
	}
	return ""
}

// relayed reports whether rund has been told of the relays that there should be.
func (m *machine) relayed(t *task) bool {
	want := m.relays(t)
	return want == nil || proto.Equal(want, t.relays)
}
