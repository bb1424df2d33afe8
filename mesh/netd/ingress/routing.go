package ingress

import (
	"fmt"
	"os"
	"strings"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// IPv6 is forwarded by all interfaces or by none: net.ipv6.conf.all.forwarding
// decides, whatever a single one says. Where it is off, it is turned on for us, and
// a rule that is in force before keeps the node from routing anything else. What a
// single interface says is how it takes itself: a router does not listen to others.
// So each gets back what it had, and the node goes on to learn its address and its
// way out from the routers around it.

const (
	all6     = "/proc/sys/net/ipv6/conf/all/forwarding"
	default6 = "/proc/sys/net/ipv6/conf/default/forwarding"
	conf6    = "/proc/sys/net/ipv6/conf"
)

// findGuard decides, once, whether the node routes IPv6 for us alone. An earlier
// process may have begun that.
func (i *Ingress) findGuard() error {
	if i.guardKnown && i.guarded || len(i.plan.families()) == 1 {
		return nil
	}
	on, err := settingIs(all6, "1")
	if os.IsNotExist(err) {
		i.guarded, i.guardKnown = false, true
		return nil // a kernel without IPv6
	}
	if err != nil {
		return err
	}
	guarded := !on
	if on && !i.guardKnown {
		if guarded, err = hasGuard(); err != nil {
			return err
		}
	}
	i.guarded, i.guardKnown = guarded, true
	return nil
}

// hasGuard looks for what an earlier process left.
func hasGuard() (bool, error) {
	nf, err := kernel.OpenNetfilter()
	if err != nil {
		return false, err
	}
	defer nf.Close()
	counters, err := nf.Counters(outsideTables[0]) // of a table that is not there: none
	_, found := counters[droppedRouted]
	return found, err
}

// routeIPv6 turns forwarding on. The guard is in force.
func routeIPv6() error {
	if on, err := settingIs(all6, "1"); err != nil || on {
		return err
	}
	links, err := os.ReadDir(conf6)
	if err != nil {
		return err
	}
	var learn, hosts []string
	for _, l := range links {
		at := conf6 + "/" + l.Name() + "/"
		if l.Name() == "all" || l.Name() == "default" {
			continue
		}
		if host, err := settingIs(at+"forwarding", "0"); err == nil && host {
			hosts = append(hosts, at+"forwarding")
		}
		// What an interface has learned goes when it becomes a router, unless it is
		// one that listens all the same.
		if listens, err := settingIs(at+"accept_ra", "1"); err == nil && listens {
			learn = append(learn, at+"accept_ra")
		}
	}
	was, err := os.ReadFile(default6)
	if err != nil {
		return err
	}
	for _, name := range learn {
		if err := setting(name, "2"); err != nil {
			return err
		}
	}
	if err := setting(all6, "1"); err != nil {
		return err
	}
	for _, name := range hosts {
		if err := setting(name, "0"); err != nil {
			return err
		}
	}
	for _, name := range learn {
		if err := setting(name, "1"); err != nil {
			return err
		}
	}
	return setting(default6, strings.TrimSpace(string(was)))
}

// routeNoIPv6 turns it off again.
func routeNoIPv6() error {
	if err := setting(all6, "0"); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// close takes the entry node's table away, and what it guarded.
func (i *Ingress) close() error {
	guarded := i.guarded
	if !i.guardKnown {
		var err error
		if guarded, err = hasGuard(); err != nil {
			return err
		}
	}
	if guarded {
		if err := routeNoIPv6(); err != nil {
			return err
		}
	}
	i.guarded, i.guardKnown = false, false
	i.policies = kernel.Policies{}
	return kernel.OneLine(removeTables(outsideTables...), allowUnjudged())
}

func settingIs(name, value string) (bool, error) {
	b, err := os.ReadFile(name)
	return strings.TrimSpace(string(b)) == value, err
}

// setting writes one; an interface may have gone meanwhile.
func setting(name, value string) error {
	err := os.WriteFile(name, []byte(value), 0)
	if os.IsNotExist(err) && name != all6 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set %s: %w", strings.TrimPrefix(name, "/proc/sys/"), err)
	}
	return nil
}
