package lab

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
)

// Network says what has been done to a host's cable.
type Network string

const (
	// NetworkUp: the host is on the lab's bridge.
	NetworkUp Network = "up"
	// NetworkCut: nothing reaches the host, and it reaches nothing.
	NetworkCut Network = "cut"
	// NetworkOff: the host has no power, and so no cable to cut.
	NetworkOff Network = "off"
)

// Cut takes hosts off the network. Everything is done at the outer end of the
// host's pair, so nothing inside is touched: processes go on, addresses, routes
// and open connections stay, and what is sent vanishes without an answer, as
// behind a broken switch. Local sockets of the host work as ever.
//
// Each host is alone; with together they still reach each other, on a bridge
// of their own. Cutting what is cut is no error, and moves it to the new side.
// A host that lost its power comes back with its cable plugged in.
func (l *Lab) Cut(hosts []Host, together bool) error {
	if len(hosts) == 0 {
		return errors.New("nothing to cut: name at least one host")
	}
	links, err := l.cables(hosts)
	if err != nil {
		return err
	}
	if !together {
		var errs []error
		for _, link := range links {
			errs = append(errs, netlink.LinkSetDown(link))
		}
		return errors.Join(append(errs, l.removeIslands())...)
	}
	island, err := l.makeIsland()
	if err != nil {
		return err
	}
	for _, link := range links {
		if err := errors.Join(netlink.LinkSetMaster(link, island), netlink.LinkSetUp(link)); err != nil {
			return fmt.Errorf("move %s: %w", link.Attrs().Name, err)
		}
	}
	return l.removeIslands()
}

// Heal plugs hosts in again; with none named, all that have power. Healing
// what is whole is no error.
func (l *Lab) Heal(hosts []Host) error {
	if len(hosts) == 0 {
		for _, h := range l.Hosts {
			if l.NetworkOf(h) != NetworkOff {
				hosts = append(hosts, h)
			}
		}
	}
	links, err := l.cables(hosts)
	if err != nil {
		return err
	}
	br, err := netlink.LinkByName(l.Bridge())
	if err != nil {
		return fmt.Errorf("bridge %s: %w; start a host to make it again", l.Bridge(), err)
	}
	for _, link := range links {
		if err := errors.Join(netlink.LinkSetMaster(link, br), netlink.LinkSetUp(link)); err != nil {
			return fmt.Errorf("plug in %s: %w", link.Attrs().Name, err)
		}
	}
	return l.removeIslands()
}

// NetworkOf reads from the kernel whether h is cut off.
func (l *Lab) NetworkOf(h Host) Network {
	link, err := netlink.LinkByName(l.veth(h))
	if err != nil {
		return NetworkOff
	}
	br, err := netlink.LinkByName(l.Bridge())
	if err != nil || link.Attrs().MasterIndex != br.Attrs().Index || link.Attrs().Flags&net.FlagUp == 0 {
		return NetworkCut
	}
	return NetworkUp
}

// cables finds the outer ends of all the hosts' pairs before one is touched.
func (l *Lab) cables(hosts []Host) ([]netlink.Link, error) {
	var links []netlink.Link
	for _, h := range hosts {
		link, err := netlink.LinkByName(l.veth(h))
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return nil, fmt.Errorf("%s is off: start it with `redoubt lab start %[1]s`", h.Name)
		}
		if err != nil {
			return nil, err
		}
		links = append(links, link)
	}
	return links, nil
}

func (l *Lab) islandPrefix() string { return fmt.Sprintf("rdtcut%d-", l.Number) }

// makeIsland makes a bridge that belongs to nobody: the machine has no address
// on it and answers no ARP there. It is always a new one, so that those of an
// earlier cut stay among themselves.
func (l *Lab) makeIsland() (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	for n := range maxHosts + 1 {
		attrs.Name = fmt.Sprintf("%s%d", l.islandPrefix(), n)
		if _, err := netlink.LinkByName(attrs.Name); errors.As(err, new(netlink.LinkNotFoundError)) {
			break
		}
	}
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return nil, fmt.Errorf("make bridge %s: %w", attrs.Name, err)
	}
	br, err := netlink.LinkByName(attrs.Name)
	if err != nil {
		return nil, err
	}
	return br, errors.Join(netlink.LinkSetAlias(br, l.alias()), netlink.LinkSetARPOff(br), netlink.LinkSetUp(br))
}

// removeIslands removes the bridges of earlier cuts that hold no host.
func (l *Lab) removeIslands() error {
	links, err := whole(netlink.LinkList)
	if err != nil {
		return err
	}
	used := map[int]bool{}
	for _, link := range links {
		used[link.Attrs().MasterIndex] = true
	}
	var errs []error
	for _, link := range links {
		if strings.HasPrefix(link.Attrs().Name, l.islandPrefix()) && !used[link.Attrs().Index] {
			errs = append(errs, l.removeLink(link.Attrs().Name))
		}
	}
	return errors.Join(errs...)
}
