package confine

import (
	"fmt"
	"path"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

const devices = "/dev/"

// own are devices and directories that every container has in /dev.
var own = []string{"console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "redoubt-init", "redoubt-proxy", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"}

// CheckDevice returns an error unless p may be the path of a device.
func CheckDevice(p string) error {
	rest, ok := strings.CutPrefix(p, devices)
	if !ok || rest == "" || len(p) > maxDevicePath || path.Clean(p) != p || strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return fmt.Errorf("device %q: give a clean path below /dev of at most %d characters", clip(p), maxDevicePath)
	}
	return nil
}

// CheckAccess returns an error unless a is made of the letters of cgroups' device rules.
func CheckAccess(a string) error {
	if a == "" || len(a) > 3 || strings.Trim(a, "rwm") != "" {
		return fmt.Errorf("access %q to a device: use the letters r, w and m", clip(a))
	}
	for i, r := range a {
		if strings.ContainsRune(a[:i], r) {
			return fmt.Errorf("access %q to a device: give each letter once", a)
		}
	}
	return nil
}

func checkDevices(list []*taskpb.Device) error {
	if err := atMost("devices", len(list), maxDevices); err != nil {
		return err
	}
	var seen []string
	for _, d := range list {
		if err := CheckDevice(d.GetSource()); err != nil {
			return err
		}
		if err := CheckDevice(d.GetTarget()); err != nil {
			return fmt.Errorf("in the container: %w", err)
		}
		if err := CheckAccess(d.GetAccess()); err != nil {
			return fmt.Errorf("device %s: %w", d.GetSource(), err)
		}
		for _, name := range own {
			if at := devices + name; d.GetTarget() == at || strings.HasPrefix(d.GetTarget(), at+"/") {
				return fmt.Errorf("device %s: every container has %s of its own: choose another path in it", d.GetSource(), at)
			}
		}
		for _, at := range seen {
			if below(at, d.GetTarget()) || below(d.GetTarget(), at) {
				return fmt.Errorf("two devices at %s in the container: keep one", d.GetTarget())
			}
		}
		seen = append(seen, d.GetTarget())
	}
	return nil
}

func below(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// Unconfined is a filter of system calls that refuses none.
const Unconfined = "unconfined"

// CheckProfile returns an error unless a filter may be called that.
func CheckProfile(name string) error {
	if err := ident.CheckName(name); err != nil {
		return fmt.Errorf("seccomp profile: %w", err)
	}
	return nil
}

func checkSecurity(s *taskpb.Security) error {
	if s == nil {
		return nil
	}
	if s.GetSeccomp() == "" {
		return fmt.Errorf("the container's security says nothing: name a seccomp profile, or leave it out")
	}
	return CheckProfile(s.GetSeccomp())
}
