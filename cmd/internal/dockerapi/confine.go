package dockerapi

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// fromConfinement translates what a container may and reaches beyond its image: names,
// resolvers, limits, settings, capabilities and groups.
func fromConfinement(in *swarm.ContainerSpec, c *taskpb.ContainerSpec) error {
	c.Hosts = nil
	for _, line := range take(&in.Hosts) { // as in hosts(5)
		words := strings.Fields(line)
		if len(words) < 2 {
			return badRequest("TaskTemplate.ContainerSpec.Hosts: %q: write an address and a name", line)
		}
		for _, name := range words[1:] {
			c.Hosts = append(c.Hosts, &taskpb.Host{Name: name, Address: words[0]})
		}
	}
	c.Dns = nil
	if d := in.DNSConfig; d != nil && len(d.Nameservers)+len(d.Search)+len(d.Options) > 0 {
		c.Dns = &taskpb.DNS{Search: take(&d.Search), Options: take(&d.Options)}
		for _, a := range take(&d.Nameservers) {
			c.Dns.Servers = append(c.Dns.Servers, a.String())
		}
	}
	c.Ulimits = nil
	for _, u := range take(&in.Ulimits) {
		if u == nil {
			return badRequest("TaskTemplate.ContainerSpec.Ulimits has an empty one")
		}
		c.Ulimits = append(c.Ulimits, &taskpb.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	c.Sysctls = nil
	sysctls := take(&in.Sysctls)
	for _, name := range slices.Sorted(maps.Keys(sysctls)) {
		c.Sysctls = append(c.Sysctls, &taskpb.Sysctl{Name: name, Value: sysctls[name]})
	}
	c.CapAdd, c.CapDrop, c.Groups = take(&in.CapabilityAdd), take(&in.CapabilityDrop), take(&in.Groups)
	fromPrivileges(in.Privileges, c)
	return nil
}

const unconfined = "unconfined"

// fromPrivileges leaves a filter of system calls that nodes have by name, which Docker
// cannot say, as it was.
func fromPrivileges(p *swarm.Privileges, c *taskpb.ContainerSpec) {
	if c.GetSecurity().GetSeccomp() == unconfined {
		c.Security = nil
	}
	if p == nil {
		return
	}
	p.NoNewPrivileges = false // no task gets any
	if f := p.Seccomp; f != nil {
		switch f.Mode {
		case swarm.SeccompModeDefault:
			c.Security, f.Mode = nil, ""
		case swarm.SeccompModeUnconfined:
			c.Security, f.Mode = &taskpb.Security{Seccomp: unconfined}, ""
		}
	}
	if a := p.AppArmor; a != nil && a.Mode == swarm.AppArmorModeDefault {
		a.Mode = "" // there is none
	}
}

func toConfinement(c *taskpb.ContainerSpec, out *swarm.ContainerSpec) {
	for _, h := range c.GetHosts() {
		out.Hosts = append(out.Hosts, h.GetAddress()+" "+h.GetName())
	}
	if d := c.GetDns(); d != nil {
		out.DNSConfig = &swarm.DNSConfig{Search: d.GetSearch(), Options: d.GetOptions()}
		for _, s := range d.GetServers() {
			if a, err := netip.ParseAddr(s); err == nil {
				out.DNSConfig.Nameservers = append(out.DNSConfig.Nameservers, a)
			}
		}
	}
	for _, u := range c.GetUlimits() {
		out.Ulimits = append(out.Ulimits, &container.Ulimit{Name: u.GetName(), Soft: u.GetSoft(), Hard: u.GetHard()})
	}
	for _, s := range c.GetSysctls() {
		if out.Sysctls == nil {
			out.Sysctls = map[string]string{}
		}
		out.Sysctls[s.GetName()] = s.GetValue()
	}
	if c.GetSecurity().GetSeccomp() == unconfined {
		out.Privileges = &swarm.Privileges{Seccomp: &swarm.SeccompOpts{Mode: swarm.SeccompModeUnconfined}}
	}
	out.CapabilityAdd, out.CapabilityDrop, out.Groups = c.GetCapAdd(), c.GetCapDrop(), c.GetGroups()
}
