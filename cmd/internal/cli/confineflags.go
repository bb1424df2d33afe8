package cli

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/redoubt-cluster/redoubt/scheduler/confine"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// confineFlags are what a container is given beyond what every one has, and what less
// it has. On update lists have -add and -rm; capabilities and the filter of system calls
// are changed as docker service does it.
type confineFlags struct {
	isolation                                                              isolation
	capAdd, capDrop, security                                              []string
	ulimits                                                                ulimitList
	devices                                                                deviceList
	hosts                                                                  hostList
	sysctls, groups, dns, dnsSearch, dnsOptions                            []string
	ulimitRm, deviceRm, hostRm, sysctlRm, groupRm, dnsRm, searchRm, optsRm []string
}

// add defines the flags; update: those of service update.
func (t *confineFlags) add(f *pflag.FlagSet, update bool) {
	f.StringArrayVar(&t.capAdd, "cap-add", nil, "capability beyond those that a container's root has, as NET_ADMIN; its node must allow it")
	f.StringArrayVar(&t.capDrop, "cap-drop", nil, "capability that it is not to have, or ALL")
	f.StringArrayVar(&t.security, "security-opt", nil, "seccomp=PROFILE of the node, seccomp=default or seccomp=unconfined; no-new-privileges always holds")
	f.Var(&t.isolation, "isolation", "default, or userns: a range of the node's ids for each task alone")
	suffix := ""
	if update {
		suffix = "-add"
	}
	f.Var(&t.ulimits, "ulimit"+suffix, "NAME=SOFT[:HARD], -1 for no bound: "+strings.Join(confine.UlimitNames(), ", "))
	f.Var(&t.devices, "device"+suffix, "/dev/NAME[:/dev/NAME][:rwm], a device of the node, which must allow it")
	f.StringArrayVar(&t.sysctls, "sysctl"+suffix, nil, "NAME=value, of its own network: "+strings.Join(confine.SysctlNames(), ", "))
	f.StringArrayVar(&t.groups, "group"+suffix, nil, "one more group of its user, a name of the image or a number")
	f.StringArrayVar(&t.dns, "dns"+suffix, nil, "address of a server for names outside the cluster, in the place of the node's")
	f.StringArrayVar(&t.dnsSearch, "dns-search"+suffix, nil, "domain that is tried after a name")
	f.StringArrayVar(&t.dnsOptions, "dns-option"+suffix, nil, "option of resolv.conf, as ndots:2")
	if !update {
		return
	}
	f.Var(&t.hosts, "host-add", "NAME:ADDRESS, one more line of its /etc/hosts")
	for _, l := range []struct {
		to         *[]string
		name, help string
	}{
		{&t.ulimitRm, "ulimit-rm", "remove a ulimit (NAME)"},
		{&t.deviceRm, "device-rm", "remove a device (its path on the node)"},
		{&t.sysctlRm, "sysctl-rm", "remove a sysctl (NAME)"},
		{&t.groupRm, "group-rm", "remove a group"},
		{&t.hostRm, "host-rm", "remove a line of its /etc/hosts (NAME, or NAME:ADDRESS)"},
		{&t.dnsRm, "dns-rm", "remove a server for names"},
		{&t.searchRm, "dns-search-rm", "remove a search domain"},
		{&t.optsRm, "dns-option-rm", "remove an option of resolv.conf"},
	} {
		f.StringArrayVar(l.to, l.name, nil, l.help)
	}
}

// apply changes c by what was given.
func (t *confineFlags) apply(c *taskpb.ContainerSpec) (err error) {
	if c.CapAdd, c.CapDrop, err = confine.ChangeCapabilities(c.CapAdd, c.CapDrop, t.capAdd, t.capDrop); err != nil {
		return usagef("%v", err)
	}
	if err := t.applySecurity(c); err != nil {
		return err
	}
	if t.isolation != "" {
		c.Isolation = t.isolation.value()
	}
	c.Ulimits = changed(c.Ulimits, t.ulimits, t.ulimitRm, func(u *taskpb.Ulimit) []string { return []string{u.Name} })
	c.Devices = changed(c.Devices, t.devices, t.deviceRm, func(d *taskpb.Device) []string { return []string{d.Source} })
	c.Hosts = changed(c.Hosts, t.hosts, t.hostRm, func(h *taskpb.Host) []string { return []string{h.Name + ":" + h.Address, h.Name} })
	c.Groups = changeList(c.Groups, t.groups, t.groupRm)
	sysctls, err := keyValues("--sysctl", t.sysctls)
	if err != nil {
		return err
	}
	var add []*taskpb.Sysctl
	for _, name := range slices.Sorted(maps.Keys(sysctls)) {
		add = append(add, &taskpb.Sysctl{Name: name, Value: sysctls[name]})
	}
	c.Sysctls = changed(c.Sysctls, add, t.sysctlRm, func(s *taskpb.Sysctl) []string { return []string{s.Name} })
	d := orNew(c.Dns)
	d.Servers, d.Search, d.Options = changeList(d.Servers, t.dns, t.dnsRm), changeList(d.Search, t.dnsSearch, t.searchRm), changeOptions(d.Options, t.dnsOptions, t.optsRm)
	if c.Dns = d; len(d.Servers)+len(d.Search)+len(d.Options) == 0 {
		c.Dns = nil
	}
	return nil
}

// changed takes what is removed, by one of its names, and what is added, in the place
// of what has its first name.
func changed[T any](list, add []T, rm []string, names func(T) []string) []T {
	list = slices.DeleteFunc(list, func(x T) bool {
		return slices.ContainsFunc(names(x), func(n string) bool { return slices.Contains(rm, n) }) ||
			slices.ContainsFunc(add, func(y T) bool { return names(y)[0] == names(x)[0] })
	})
	return append(list, add...)
}

// changeOptions has each option once: ndots:2 takes the place of ndots:1.
func changeOptions(list, add, rm []string) []string {
	name := func(o string) []string { n, _, _ := strings.Cut(o, ":"); return []string{n, o} }
	return changed(list, add, rm, name)
}

func (t *confineFlags) applySecurity(c *taskpb.ContainerSpec) error {
	for _, o := range t.security {
		key, value, _ := strings.Cut(strings.Replace(o, ":", "=", 1), "=")
		switch {
		case o == "no-new-privileges", key == "no-new-privileges" && value == "true": // always
		case key == "no-new-privileges":
			return usagef("--security-opt %s: no container gains privileges by starting a program, here: leave it out", o)
		case key == "seccomp" && value == "default":
			c.Security = nil
		case key == "seccomp" && value != "":
			c.Security = &taskpb.Security{Seccomp: value}
		case key == "apparmor" || key == "label":
			return usagef("--security-opt %s: there are no AppArmor profiles and SELinux labels of services: use capabilities and seccomp=PROFILE", o)
		default:
			return usagef("--security-opt %q: use seccomp=PROFILE, seccomp=default, seccomp=unconfined or no-new-privileges", o)
		}
	}
	return nil
}

type isolation string

func (i *isolation) Type() string   { return "default|userns" }
func (i *isolation) String() string { return string(*i) }
func (i *isolation) Set(s string) error {
	switch s {
	case "default", "userns":
		*i = isolation(s)
		return nil
	case "gvisor":
		return fmt.Errorf("gvisor is not there yet: use userns")
	}
	return fmt.Errorf("use default or userns")
}

func (i isolation) value() taskpb.Isolation {
	if i == "userns" {
		return taskpb.Isolation_ISOLATION_USERNS
	}
	return taskpb.Isolation_ISOLATION_UNSPECIFIED
}

type ulimitList []*taskpb.Ulimit

func (l *ulimitList) Type() string   { return "ulimit" }
func (l *ulimitList) String() string { return "" }
func (l *ulimitList) Set(s string) error {
	u, err := parseUlimit(s)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(*l, func(o *taskpb.Ulimit) bool { return o.Name == u.Name }) {
		return fmt.Errorf("%s is given twice", u.Name)
	}
	*l = append(*l, u)
	return nil
}

// parseUlimit reads nofile=1024:2048.
func parseUlimit(s string) (*taskpb.Ulimit, error) {
	name, value, ok := strings.Cut(s, "=")
	if !ok || name == "" {
		return nil, fmt.Errorf("%q: write NAME=SOFT[:HARD], as nofile=1024:2048", s)
	}
	soft, hard, two := strings.Cut(value, ":")
	u := &taskpb.Ulimit{Name: name}
	var err, err2 error
	u.Soft, err = strconv.ParseInt(soft, 10, 64)
	if u.Hard = u.Soft; two {
		u.Hard, err2 = strconv.ParseInt(hard, 10, 64)
	}
	if err != nil || err2 != nil || u.Soft < -1 || u.Hard < -1 {
		return nil, fmt.Errorf("%q: write numbers, as nofile=1024:2048, or -1 for no bound", s)
	}
	return u, nil
}

func ulimitString(u *taskpb.Ulimit) string { return fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard) }

type deviceList []*taskpb.Device

func (l *deviceList) Type() string   { return "device" }
func (l *deviceList) String() string { return "" }
func (l *deviceList) Set(s string) error {
	d, err := parseDevice(s)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(*l, func(o *taskpb.Device) bool { return o.Target == d.Target }) {
		return fmt.Errorf("two devices at %s", d.Target)
	}
	*l = append(*l, d)
	return nil
}

// parseDevice reads /dev/fuse[:/dev/x][:rwm]; without letters it is rw.
func parseDevice(s string) (*taskpb.Device, error) {
	parts := strings.Split(s, ":")
	d := &taskpb.Device{Source: parts[0], Target: parts[0], Access: "rw"}
	switch {
	case len(parts) == 3:
		d.Target, d.Access = parts[1], parts[2]
	case len(parts) == 2 && strings.HasPrefix(parts[1], "/"):
		d.Target = parts[1]
	case len(parts) == 2:
		d.Access = parts[1]
	case len(parts) != 1:
		return nil, fmt.Errorf("%q: write /dev/NAME[:/dev/NAME][:rwm]", s)
	}
	for _, err := range []error{confine.CheckDevice(d.Source), confine.CheckDevice(d.Target), confine.CheckAccess(d.Access)} {
		if err != nil {
			return nil, err
		}
	}
	return d, nil
}

func deviceString(d *taskpb.Device) string { return d.Source + ":" + d.Target + ":" + d.Access }

type hostList []*taskpb.Host

func (l *hostList) Type() string   { return "host" }
func (l *hostList) String() string { return "" }
func (l *hostList) Set(s string) error {
	h, err := parseHostLine(s)
	if err != nil {
		return err
	}
	*l = append(*l, h)
	return nil
}

// parseHostLine reads NAME:ADDRESS, or NAME=ADDRESS, where the address may have colons.
func parseHostLine(s string) (*taskpb.Host, error) {
	i := strings.IndexAny(s, ":=")
	if i <= 0 || i == len(s)-1 {
		return nil, fmt.Errorf("%q: write NAME:ADDRESS, as db:192.0.2.7", s)
	}
	h := &taskpb.Host{Name: s[:i], Address: strings.TrimSuffix(strings.TrimPrefix(s[i+1:], "["), "]")}
	if h.Address == "host-gateway" {
		return nil, fmt.Errorf("%q: no container has a way to its node: give an address", s)
	}
	return h, nil
}

// hostFlag is --host of service create, which docker has twice: a socket of the node, as
// with any command, or a line of /etc/hosts. A name has no slash.
type hostFlag struct {
	socket *string
	lines  hostList
}

func (h *hostFlag) Type() string   { return "host" }
func (h *hostFlag) String() string { return "" }
func (h *hostFlag) Set(s string) error {
	if strings.Contains(s, "://") {
		*h.socket = s
		return nil
	}
	return h.lines.Set(s)
}

// confineFields are what service inspect shows of it, in the order of its lines.
func confineFields(c *taskpb.ContainerSpec) (out [][2]string) {
	show := func(name string, values ...string) { out = append(out, [2]string{name, strings.Join(values, ", ")}) }
	show("Capabilities added", c.GetCapAdd()...)
	show("Capabilities dropped", c.GetCapDrop()...)
	show("Devices", each(c.GetDevices(), deviceString)...)
	show("Seccomp", c.GetSecurity().GetSeccomp())
	show("Ulimits", each(c.GetUlimits(), ulimitString)...)
	show("Sysctls", each(c.GetSysctls(), func(s *taskpb.Sysctl) string { return s.Name + "=" + s.Value })...)
	show("Groups", c.GetGroups()...)
	show("Hosts", each(c.GetHosts(), func(h *taskpb.Host) string { return h.Name + ":" + h.Address })...)
	show("DNS servers", c.GetDns().GetServers()...)
	show("DNS search", c.GetDns().GetSearch()...)
	show("DNS options", c.GetDns().GetOptions()...)
	if c.GetIsolation() == taskpb.Isolation_ISOLATION_USERNS {
		show("Isolation", "userns")
	}
	if c.GetInit() {
		show("Init", "yes")
	}
	if c.GetTemplated() {
		show("Templates", "in env, hostname and mounts")
	}
	return out
}

func each[T any](list []T, text func(T) string) (out []string) {
	for _, x := range list {
		out = append(out, text(x))
	}
	return out
}
