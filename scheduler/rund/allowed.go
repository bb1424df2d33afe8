package rund

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/scheduler/confine"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/ocispec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// What a container is given beyond what every one has is allowed here by the node's own
// configuration, or not at all: what managers, or who took one over, say of it is only
// what they wish.

func (c *Config) validateAllowed() error {
	seen := map[string]bool{}
	once := func(field, name string) error {
		if seen[name] {
			return fmt.Errorf("rund.%s: %s is given twice: keep one", field, name)
		}
		seen[name] = true
		return nil
	}
	for _, n := range c.AllowedCapabilities {
		if err := cmp.Or(confine.CheckCapability(n), once("allowed_capabilities", n)); err != nil {
			return fmt.Errorf("rund.allowed_capabilities: %w", err)
		}
	}
	if n := len(c.AllowedDevices); n > maxAllowedDevices {
		return fmt.Errorf("rund.allowed_devices: %d devices: at most %d are possible", n, maxAllowedDevices)
	}
	for _, d := range c.AllowedDevices {
		err := cmp.Or(confine.CheckDevice(d.Path), once("allowed_devices", d.Path))
		if d.Access != "" {
			err = cmp.Or(err, confine.CheckAccess(d.Access))
		}
		if err != nil {
			return fmt.Errorf("rund.allowed_devices: %w", err)
		}
	}
	for field, p := range map[string]string{"seccomp_profiles": c.SeccompProfiles, "init": c.Init} {
		if p != "" && !cleanAbs(p) {
			return fmt.Errorf("rund.%s %q must be a clean absolute path", field, p)
		}
	}
	return nil
}

// allowed is what of it this node lets containers have. It is immutable.
type allowed struct {
	capabilities []string
	devices      map[string]string // access by path
	profiles     map[string]*specs.LinuxSeccomp
	unconfined   bool
	init         string
}

func newAllowed(c Config) (*allowed, error) {
	a := &allowed{capabilities: c.AllowedCapabilities, devices: map[string]string{}, unconfined: c.SeccompUnconfined, init: c.Init}
	for _, d := range c.AllowedDevices {
		a.devices[d.Path] = cmp.Or(d.Access, "rw")
	}
	var err error
	a.profiles, err = loadProfiles(c.SeccompProfiles)
	return a, err
}

// check returns an error that names what is not allowed, and where it would be.
func (a *allowed) check(c *taskpb.ContainerSpec) error {
	for _, n := range c.GetCapAdd() {
		if !slices.Contains(a.capabilities, n) {
			return fmt.Errorf("this node does not allow %s to containers: add it to rund.allowed_capabilities there, or leave it out", n)
		}
	}
	for _, d := range c.GetDevices() {
		may, ok := a.devices[d.GetSource()]
		switch {
		case !ok:
			return fmt.Errorf("this node does not allow the device %s to containers: add it to rund.allowed_devices there, or leave it out", d.GetSource())
		case strings.Trim(d.GetAccess(), may) != "":
			return fmt.Errorf("this node allows the device %s to containers as %s alone, not as %s", d.GetSource(), may, d.GetAccess())
		}
	}
	switch p := c.GetSecurity().GetSeccomp(); {
	case p == "" || a.profiles[p] != nil || p == confine.Unconfined && a.unconfined:
		return nil
	case p == confine.Unconfined:
		return errors.New("this node lets no container be without a filter of system calls: set rund.seccomp_unconfined there, or leave seccomp=unconfined out")
	default:
		return fmt.Errorf("this node has no seccomp profile %s: put %s.json into rund.seccomp_profiles there, or name another", p, p)
	}
}

// held is what a container may hold that was started so, by what is allowed now.
func (a *allowed) held(c *taskpb.ContainerSpec, root bool) (capabilities uint64, unfiltered bool) {
	may := slices.DeleteFunc(confine.Held(c, root), func(n string) bool {
		return slices.Contains(c.GetCapAdd(), n) && !slices.Contains(a.capabilities, n)
	})
	return confine.CapabilityMask(may), c.GetSecurity().GetSeccomp() == confine.Unconfined && a.unconfined
}

// features are what the node tells of it.
func (a *allowed) features() (out []*taskpb.Feature) {
	add := func(name string, err error) {
		f := &taskpb.Feature{Name: name, Present: err == nil}
		if err != nil {
			f.Detail = err.Error()
		}
		out = append(out, f)
	}
	f, err := a.openInit()
	if err == nil {
		f.Close()
	}
	add(confine.InitFeature, err)
	for _, n := range a.capabilities {
		add(confine.CapabilityFeature(n), nil)
	}
	for _, p := range slices.Sorted(maps.Keys(a.devices)) {
		_, err := findDevice(p, a.devices[p])
		add(confine.DeviceFeature(p), err)
	}
	for _, n := range slices.Sorted(maps.Keys(a.profiles)) {
		add(confine.SeccompFeature(n), nil)
	}
	if a.unconfined {
		add(confine.SeccompFeature(confine.Unconfined), nil)
	}
	return out
}

// openInit opens the program for --init, which root alone may have written.
func (a *allowed) openInit() (*os.File, error) {
	if a.init == "" {
		return nil, errors.New("this node has no program for init: set rund.init there")
	}
	f, err := os.OpenFile(a.init, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("init: %w: install tini, or set rund.init there", err)
	}
	if err := trusted(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("init: %w", err)
	}
	return f, nil
}

// trusted returns an error unless f is a file that root alone may write.
func trusted(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Uid != 0 || st.Mode&0o022 != 0 {
		return fmt.Errorf("%s is not a file that root alone may write: chown root and chmod go-w it", f.Name())
	}
	return nil
}

// memory are devices that no container has, whatever is allowed: all of the machine's
// memory, and its ports.
var memory = map[uint64]bool{unix.Mkdev(1, 1): true, unix.Mkdev(1, 2): true, unix.Mkdev(1, 4): true}

// findDevice returns the device of the node at a path. Its file belongs to an id that a
// container's user namespace has not, so what others may do there is what a container
// may.
func findDevice(path, access string) (*ocispec.Device, error) {
	real, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(real, filepath.Base(path)), &st); err != nil {
		return nil, fmt.Errorf("device %s: %w", path, err)
	}
	d := &ocispec.Device{Source: path, Access: access, Type: "c", Major: int64(unix.Major(uint64(st.Rdev))), Minor: int64(unix.Minor(uint64(st.Rdev)))}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
	case unix.S_IFBLK:
		d.Type = "b"
	default:
		return nil, fmt.Errorf("%s is no device", path)
	}
	if d.Type == "c" && memory[uint64(st.Rdev)] {
		return nil, fmt.Errorf("device %s is the machine's memory or ports, which no container has", path)
	}
	for letter, bit := range map[string]uint32{"r": 0o4, "w": 0o2} {
		if strings.Contains(access, letter) && st.Mode&bit == 0 {
			return nil, fmt.Errorf("device %s: to a container's user namespace its owner is nobody, and others may not %s: chmod o+%s it", path, map[string]string{"r": "read", "w": "write"}[letter], letter)
		}
	}
	return d, nil
}
