package compose

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/redoubt-cluster/redoubt/scheduler/confine"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// confine maps what a container is given beyond what every one has, and what less it
// has. What of it a node allows is the node's to say.
func (m *mapper) confine(s types.ServiceConfig, c *taskpb.ContainerSpec) {
	path := []string{"services", s.Name}
	c.Init = s.Init != nil && *s.Init
	c.Groups = s.GroupAdd
	var err error
	if c.CapAdd, c.CapDrop, err = confine.Capabilities(s.CapAdd, s.CapDrop); err != nil {
		key := "cap_add"
		if len(s.CapAdd) == 0 {
			key = "cap_drop"
		}
		m.fail(under(path, key), err)
	}
	for i, o := range s.SecurityOpt {
		m.securityOption(under(path, "security_opt", strconv.Itoa(i)), o, c)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Ulimits)) {
		u := s.Ulimits[name]
		out := &taskpb.Ulimit{Name: name, Soft: int64(u.Soft), Hard: int64(u.Hard)}
		if u.Single != 0 {
			out.Soft, out.Hard = int64(u.Single), int64(u.Single)
		}
		c.Ulimits = append(c.Ulimits, out)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Sysctls)) {
		c.Sysctls = append(c.Sysctls, &taskpb.Sysctl{Name: name, Value: s.Sysctls[name]})
	}
	for _, d := range s.Devices {
		out := &taskpb.Device{Source: d.Source, Target: d.Target, Access: d.Permissions}
		if out.Target == "" {
			out.Target = out.Source
		}
		if out.Access == "" {
			out.Access = "rwm"
		}
		c.Devices = append(c.Devices, out)
	}
	for _, name := range slices.Sorted(maps.Keys(s.ExtraHosts)) {
		for _, address := range s.ExtraHosts[name] {
			c.Hosts = append(c.Hosts, &taskpb.Host{Name: name, Address: strings.Trim(address, "[]")})
		}
	}
	if len(s.DNS)+len(s.DNSSearch)+len(s.DNSOpts) > 0 {
		c.Dns = &taskpb.DNS{Servers: s.DNS, Search: s.DNSSearch, Options: s.DNSOpts}
	}
	c.Templated = confine.Templated(c)
}

func (m *mapper) securityOption(path []string, o string, c *taskpb.ContainerSpec) {
	key, value, _ := strings.Cut(strings.Replace(o, ":", "=", 1), "=")
	switch {
	case o == "no-new-privileges", key == "no-new-privileges" && value == "true": // always
	case key == "seccomp" && value == "default":
		c.Security = nil
	case key == "seccomp" && value != "":
		c.Security = &taskpb.Security{Seccomp: value}
	default:
		m.wrong(path, "%q: use seccomp=PROFILE of the node, seccomp=default, seccomp=unconfined or no-new-privileges", o)
	}
}
