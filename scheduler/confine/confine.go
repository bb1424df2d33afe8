// Package confine says what a container may be given beyond what every one has, and
// what less it may have: capabilities, devices, filters of system calls, bounds of its
// processes, settings of its own network, names of hosts, resolvers, groups, and
// templates in its specification.
//
// It owns their grammar, their bounds and the names of the features by which nodes say
// what they allow. Managers refuse a service by it, and rund a task: both by what stands
// here, so that they mean the same. rund does not rely on managers having looked.
//
// It refuses what is not of a container's own (settings of the kernel that others
// share), what it does not know, and any template that could name a secret. What it lets
// pass is no permission: of capabilities, devices and filters each node allows its own,
// in a file that is root's, and each person who may ask for them needs a verb.
//
// It imports the messages and the language of templates, does no I/O and knows no node.
//
// Use: Check for a specification; Features for placement; Expand on the node, of what
// Check let pass; Capabilities for who takes them from people.
package confine

import (
	"cmp"
	"fmt"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Check returns an error that names the field and the remedy, unless all that this
// package is about is as it must be. Templates are looked at by Expand.
func Check(c *taskpb.ContainerSpec) error {
	return cmp.Or(
		checkCapabilities(c.GetCapAdd(), c.GetCapDrop()),
		checkDevices(c.GetDevices()),
		checkSecurity(c.GetSecurity()),
		checkIsolation(c.GetIsolation()),
		checkUlimits(c.GetUlimits()),
		checkSysctls(c.GetSysctls()),
		checkGroups(c.GetGroups()),
		checkHosts(c.GetHosts()),
		checkDNS(c.GetDns()),
	)
}

// Privileged reports whether the specification asks for what a container has by
// nobody's default: who wants it needs the verb service.privileged.
func Privileged(c *taskpb.ContainerSpec) bool {
	return len(c.GetCapAdd()) > 0 || len(c.GetDevices()) > 0 || c.GetSecurity() != nil
}

func checkIsolation(i taskpb.Isolation) error {
	if i != taskpb.Isolation_ISOLATION_UNSPECIFIED && i != taskpb.Isolation_ISOLATION_USERNS {
		return fmt.Errorf("the isolation is unknown: use default or userns")
	}
	return nil
}

func atMost(what string, n, most int) error {
	if n > most {
		return fmt.Errorf("there are %d %s: at most %d are allowed", n, what, most)
	}
	return nil
}

func clip(s string) string { return ident.Clip(s) }
