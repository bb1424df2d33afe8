package netd

import (
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/sandbox"
)

// Config is the section `netd:` of the node's configuration.
type Config struct {
	// AllowLinkLocal lets containers reach 169.254.0.0/16, where clouds serve
	// the machine's own credentials. Off unless asked for.
	AllowLinkLocal bool `yaml:"allow_link_local"`
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
