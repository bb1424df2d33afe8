// Package lab runs a whole cluster on one machine: what users try Redoubt with
// and what the story tests run on.
//
// A lab is a set of hosts. Each is a network namespace with its own address on
// a bridge, a mount namespace with its own /run/containerd and hosts file, a
// host name, its own data and run directories, uids and cgroup, a private
// containerd, and the real daemons, joined with real tokens. Nothing of
// Redoubt is simulated, and nothing in Redoubt knows that it runs in a lab.
//
// The lab owns everything whose name it derives from the lab's: namespaces
// /run/netns/rdt-<lab>-<host>, the bridge, /var/lib/redoubt-lab/<lab>,
// /run/redoubt-lab/<lab> and the cgroup redoubt-lab/<lab>. Down removes exactly
// these, from whatever state a crash left, and never signals a process that is
// not in them.
//
// A lab is for trying and testing. Its hosts share a kernel, root of one is
// root of all, and the operator key is kept in a file so that tests can unlock.
package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
)

// Where labs live. Run directories are short: a socket path has 107 characters.
const (
	dataRoot = "/var/lib/redoubt-lab"
	runRoot  = "/run/redoubt-lab"
	cgroup   = "redoubt-lab"
)

// Lab is one lab, as its state file keeps it.
type Lab struct {
	Name string `json:"name"`
	// Number makes interface names, subnet and uids unique on this machine.
	Number int    `json:"number"`
	Hosts  []Host `json:"hosts"`
	// CNI: hosts have Debian's CNI plugins.
	CNI bool `json:"cni,omitempty"`
	// FIPS: hosts are in FIPS mode.
	FIPS bool `json:"fips,omitempty"`
	// Ready is set when `up` has ended well.
	Ready bool `json:"ready"`
}

// Host is one simulated machine.
type Host struct {
	Name   string `json:"name"`
	Role   string `json:"role"` // "manager" or "worker"
	Number int    `json:"number"`
}

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$`)

// CheckName says whether s can be the name of a lab: it becomes part of paths,
// namespaces and cgroups.
func CheckName(s string) error {
	if !nameForm.MatchString(s) || strings.Contains(s, "--") {
		return fmt.Errorf("lab name %q: use 1 to 20 lowercase letters, digits and single inner hyphens", s)
	}
	return nil
}

// Open reads the lab called name.
func Open(name string) (*Lab, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	b, err := atomicfile.ReadBounded(filepath.Join(dataRoot, name, "lab.json"), maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no lab is called %q: make it with `redoubt lab up --name %s`", name, name)
	}
	if err != nil {
		return nil, err
	}
	l := new(Lab)
	if err := json.Unmarshal(b, l); err != nil || l.check(name) != nil {
		return nil, fmt.Errorf("%s is damaged: remove the lab with `redoubt lab down --name %s`", filepath.Join(dataRoot, name, "lab.json"), name)
	}
	return l, nil
}

// check refuses a state file that would make paths or names outside the lab.
func (l *Lab) check(name string) error {
	if l.Name != name || l.Number < 0 || l.Number >= maxLabs || len(l.Hosts) == 0 || len(l.Hosts) > maxHosts {
		return errors.New("out of range")
	}
	for _, h := range l.Hosts {
		if !hostForm.MatchString(h.Name) || h.Number < 1 || h.Number > maxHosts {
			return errors.New("bad host")
		}
	}
	return nil
}

var hostForm = regexp.MustCompile(`^(manager|worker)-[1-9][0-9]?$`)

func (l *Lab) save() error {
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(l.Dir(), "lab.json"), b)
}

// List returns the names of the labs on this machine.
func List() ([]string, error) {
	entries, err := os.ReadDir(dataRoot)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && CheckName(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// Dir is where the lab keeps everything but sockets.
func (l *Lab) Dir() string { return filepath.Join(dataRoot, l.Name) }

// RunDir holds the hosts' run directories.
func (l *Lab) RunDir() string { return filepath.Join(runRoot, l.Name) }

// KeyFile holds the operator key, mode 0600. A real cluster keeps no such file.
func (l *Lab) KeyFile() string { return filepath.Join(l.Dir(), "operator.key") }

// Host returns the host called name.
func (l *Lab) Host(name string) (Host, error) {
	i := slices.IndexFunc(l.Hosts, func(h Host) bool { return h.Name == name })
	if i < 0 {
		var names []string
		for _, h := range l.Hosts {
			names = append(names, h.Name)
		}
		return Host{}, fmt.Errorf("lab %s has no host %q: it has %s", l.Name, name, strings.Join(names, ", "))
	}
	return l.Hosts[i], nil
}

// Gateway is the lab's address in the machine's own network namespace.
func (l *Lab) Gateway() netip.Addr {
	return netip.AddrFrom4([4]byte{10, subnetByte, byte(l.Number), 1})
}

// Subnet is the lab's network.
func (l *Lab) Subnet() netip.Prefix { return netip.PrefixFrom(l.Gateway(), 24).Masked() }

// Addr is h's address.
func (l *Lab) Addr(h Host) netip.Addr {
	return netip.AddrFrom4([4]byte{10, subnetByte, byte(l.Number), byte(10 + h.Number)})
}

// Paths of a host.
func (l *Lab) hostDir(h Host) string { return filepath.Join(l.Dir(), h.Name) }

// DataDir is what must survive h's reboot.
func (l *Lab) DataDir(h Host) string { return filepath.Join(l.hostDir(h), "data") }

// HostRunDir is h's --run-dir.
func (l *Lab) HostRunDir(h Host) string { return filepath.Join(l.RunDir(), h.Name) }

// APISocket is h's API socket.
func (l *Lab) APISocket(h Host) string { return filepath.Join(l.HostRunDir(h), "api.sock") }

// LogFile is where a process of h writes.
func (l *Lab) LogFile(h Host, process string) string {
	return filepath.Join(l.hostDir(h), process+".log")
}

func (l *Lab) configFile(h Host) string { return filepath.Join(l.hostDir(h), "config.yaml") }

// CgroupOf is h's cgroup in every hierarchy, relative to the root.
func (l *Lab) CgroupOf(h Host) string { return filepath.Join(cgroup, l.Name, h.Name) }

// uid is the first of the 16 uids of h.
func (l *Lab) uid(h Host) int { return firstUID + 16*(l.Number*(maxHosts+1)+h.Number) }

// usernsBase is the first of the 65536 ids that h's containers are mapped to.
func (l *Lab) usernsBase(h Host) int {
	return firstUserNS + usernsSize*(l.Number*(maxHosts+1)+h.Number)
}

// Bridge is the name of the lab's bridge.
func (l *Lab) Bridge() string { return fmt.Sprintf("rdtbr-%d", l.Number) }

func (l *Lab) veth(h Host) string  { return fmt.Sprintf("rdtl%d-%d", l.Number, h.Number) }
func (l *Lab) netns(h Host) string { return "rdt-" + l.Name + "-" + h.Name }
func (l *Lab) nsDir() string       { return filepath.Join(l.RunDir(), ".ns") }
func (l *Lab) mntns(h Host) string { return filepath.Join(l.nsDir(), h.Name+".mnt") }
func (l *Lab) utsns(h Host) string { return filepath.Join(l.nsDir(), h.Name+".uts") }

// HostJSON is a host in `lab ls --format json`.
type HostJSON struct {
	Name    string `json:"name"`
	Role    string `json:"role"`
	Address string `json:"address"`
	DataDir string `json:"data_dir"`
	RunDir  string `json:"run_dir"`
	Running bool   `json:"running"`
	Network string `json:"network"` // up, cut, off
}

// Describe lists the hosts.
func (l *Lab) Describe() []HostJSON {
	var out []HostJSON
	for _, h := range l.Hosts {
		out = append(out, HostJSON{h.Name, h.Role, l.Addr(h).String(), l.DataDir(h), l.HostRunDir(h), l.pidFile(h, nodeProcess).alive(), string(l.NetworkOf(h))})
	}
	return out
}
