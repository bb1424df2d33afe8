package netd

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/portname"
	"github.com/redoubt-cluster/redoubt/internal/sandbox"
)

// Config is the section `netd:` of the node's configuration.
type Config struct {
	// AllowLinkLocal lets containers reach 169.254.0.0/16, where clouds serve
	// the machine's own credentials. Off unless asked for.
	AllowLinkLocal bool `yaml:"allow_link_local"`
	// ContainersMayReach are ports of the cluster's nodes that containers of this
	// one reach though no service publishes them.
	ContainersMayReach []string `yaml:"containers_may_reach"`
}

// mayReach refuses what would be of no effect, or be another thing than it seems.
func (c Config) mayReach() (out []portname.Port, err error) {
	if n := len(c.ContainersMayReach); n > maxMayReach {
		return nil, fmt.Errorf("netd.containers_may_reach has %d ports: at most %d are possible", n, maxMayReach)
	}
	for _, s := range c.ContainersMayReach {
		p, err := portname.Parse(s)
		switch {
		case err != nil:
			return nil, fmt.Errorf("netd.containers_may_reach: %w", err)
		case !p.UDP && (p.Number == managementPort || p.Number == peerPort):
			return nil, fmt.Errorf("netd.containers_may_reach: no container reaches %s: leave it out", p)
		case slices.Contains(out, p):
			return nil, fmt.Errorf("netd.containers_may_reach names %s twice", p)
		}
		out = append(out, p)
	}
	return out, nil
}

// SandboxProfile is what netd keeps after its start: the network, and entering
// the network namespaces of sandboxes. Landlock is left out because /proc/sys
// is written in several namespaces; file access is bounded by the user instead.
func SandboxProfile() sandbox.Profile {
	return sandbox.Profile{
		Capabilities: []sandbox.Capability{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN},
		Syscalls:     sandbox.NetworkAdmin,
	}
}
