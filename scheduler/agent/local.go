package agent

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/redoubt-cluster/redoubt/mesh/overlay"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Networks that rund's drivers make are part of what a task is made from: rund is
// told of them with the task and before anything of it exists. So a task is begun
// once managers have described each of its networks. What came of it rund says;
// netd hears nothing of these networks.

// describe takes what managers say of networks.
func (m *machine) describe(now time.Time, v *overlay.View) {
	m.view = v
	m.stepAll(now)
}

// unknown says which network of a task that is to begin is not described.
func (m *machine) unknown(t *task) string {
	for _, at := range t.nets.last.GetAttachments() {
		switch {
		case m.view == nil:
			return "waiting for the managers to describe its networks"
		case m.view.Networks[at.NetworkId] == nil:
			return "waiting for the managers to describe network " + at.NetworkId
		}
	}
	return ""
}

// knows reports whether all that a task is made from is known.
func (m *machine) knows(t *task) bool { return m.unknown(t) == "" }

// local adds the networks that rund's drivers make. They are numbered by the
// task's own order, which does not change. One with a container is not made again:
// rund has written down what it was made from.
func (m *machine) local(t *task, d *rundpb.TaskDesired) {
	if t.actual.GetContainerId() != "" || !m.knows(t) {
		return
	}
	names := false
	for i, at := range onOverlays(t.nets.last) {
		n := m.view.Networks[at.NetworkId]
		if names = names || n.Driver != "none"; n.Driven() {
			d.LocalNetworks = append(d.LocalNetworks, &rundpb.LocalNetwork{Id: n.ID, Driver: n.Driver, Options: n.Options, Index: uint32(i)})
		}
	}
	if len(d.LocalNetworks) > 0 && !names {
		d.Endpoint.Dns = d.GetSpec().GetContainer().GetDns().GetServers() // nobody else tells names there
	}
}

// attached is a place on a network with what rund says of it.
func attached(a *rundpb.TaskActual, at overlay.Attachment) overlay.Attachment {
	for _, l := range a.GetLocalAttachments() {
		if l.GetNetworkId() != at.Network {
			continue
		}
		at.Made = true
		for _, addr := range addresses(l) {
			i := 0
			if addr.Is6() {
				i = 1
			}
			if !at.Addrs[i].IsValid() && addr.IsGlobalUnicast() {
				at.Addrs[i] = addr
			}
		}
	}
	return at
}

// addresses are those that a driver gave, in its order.
func addresses(l *rundpb.LocalAttachment) (out []netip.Addr) {
	for _, text := range l.GetAddresses() {
		if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Zone() == "" && len(out) < maxLocalAddresses {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}

// localOf is what managers are told of a task on networks of rund's drivers.
func localOf(a *rundpb.TaskActual) (out []*taskpb.Attachment) {
	for _, l := range a.GetLocalAttachments() {
		at := &taskpb.Attachment{NetworkId: l.GetNetworkId()}
		for _, addr := range addresses(l) {
			at.Addresses = append(at.Addresses, addr.String())
		}
		if len(at.Addresses) > 0 {
			out = append(out, at)
		}
	}
	return out
}

func checkOptions(options map[string]string) error {
	if len(options) > maxOptions {
		return fmt.Errorf("%d options: at most %d are possible", len(options), maxOptions)
	}
	for k, v := range options {
		if len(k) > maxOption || len(v) > maxOption {
			return fmt.Errorf("option %.60q is longer than %d bytes", k, maxOption)
		}
	}
	return nil
}
