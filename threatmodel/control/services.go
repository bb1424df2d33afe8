package control

import (
	"context"
	"path"
	"strings"
)

// eachService looks at all services.
func eachService(look func(s Service, found *Found)) func(context.Context, *Cluster, *Found) error {
	return func(_ context.Context, c *Cluster, found *Found) error {
		if len(c.Services) == 0 {
			return notApplicable("there are no services")
		}
		for _, s := range c.Services {
			found.Looked()
			look(s, found)
		}
		return nil
	}
}

func checkPinned(s Service, found *Found) {
	if s.Digest == "" {
		found.Against("service %s runs whatever is called %s", s.Name, s.Image)
	}
}

func checkMemory(s Service, found *Found) {
	if s.MemoryBytes == 0 {
		found.Against("tasks of %s may take all memory of their node", s.Name)
	}
}

func checkCPU(s Service, found *Found) {
	if s.NanoCPUs == 0 {
		found.Against("tasks of %s may take all processors of their node", s.Name)
	}
}

func checkReadOnly(s Service, found *Found) {
	if !s.ReadOnly {
		found.Against("containers of %s may change their own programs", s.Name)
	}
}

// sensitive are directories by which a container would see, or change, what its node
// is: themselves, and all below. Those above them are, too.
var sensitive = []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/usr", "/var/run", "/var/lib/redoubt", "/var/lib/containerd",
	"/var/spool/at", "/var/spool/cron"}

func checkMounts(s Service, found *Found) {
	for _, m := range s.Mounts {
		at := path.Clean(m.Source)
		for _, dir := range sensitive {
			if below(at, dir) || below(dir, at) {
				found.Against("containers of %s have %s of their node", s.Name, at)
				break
			}
		}
	}
}

// below reports whether p is dir or in it.
func below(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

func checkWritable(s Service, found *Found) {
	for _, m := range s.Mounts {
		if !m.ReadOnly {
			found.Against("containers of %s write to %s of their node", s.Name, m.Source)
		}
	}
}

func checkPortNumbers(s Service, found *Found) {
	for _, p := range s.Ports {
		if p.Published > 0 && p.Published < firstFreePort {
			found.Against("service %s publishes port %d", s.Name, p.Published)
		}
	}
}

func checkPortAddresses(s Service, found *Found) {
	for _, p := range s.Ports {
		if p.Host == "" {
			found.Against("service %s publishes port %d on every address of its nodes", s.Name, p.Published)
		}
	}
}

// eachNetwork looks at all networks.
func eachNetwork(look func(n Network, found *Found)) func(context.Context, *Cluster, *Found) error {
	return func(_ context.Context, c *Cluster, found *Found) error {
		if len(c.Networks) == 0 {
			return notApplicable("there are no networks")
		}
		for _, n := range c.Networks {
			found.Looked()
			look(n, found)
		}
		return nil
	}
}

func checkInMesh(n Network, found *Found) {
	if !n.InMesh {
		found.Against("network %s is of driver %s: what is said on it goes past the mesh", n.Name, n.Driver)
	}
}

// checkDenies: on a network with one service there is nobody to be kept from.
func checkDenies(n Network, found *Found) {
	if !n.Denies && n.Services > 1 {
		found.Against("%d services on network %s reach each other, whatever policies say", n.Services, n.Name)
	}
}
