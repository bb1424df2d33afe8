package rund

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/scheduler/confine"
)

// loadProfiles reads the filters of system calls that the node's administrator has put
// into a directory; empty: there are none. One that is wrong is an error, so that nobody
// runs under less than he thinks.
func loadProfiles(dir string) (map[string]*specs.LinuxSeccomp, error) {
	if dir == "" {
		return nil, nil
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("rund.seccomp_profiles: %w", err)
	}
	if len(list) > maxProfiles {
		return nil, fmt.Errorf("rund.seccomp_profiles: %s has %d files: at most %d are possible", dir, len(list), maxProfiles)
	}
	out := map[string]*specs.LinuxSeccomp{}
	for _, e := range list {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || name == confine.Unconfined {
			return nil, fmt.Errorf("rund.seccomp_profiles: %s must be called NAME.json, and not %s.json: rename or move it", filepath.Join(dir, e.Name()), confine.Unconfined)
		}
		if err := confine.CheckProfile(name); err != nil {
			return nil, fmt.Errorf("rund.seccomp_profiles: %s: %w", filepath.Join(dir, e.Name()), err)
		}
		if out[name], err = loadProfile(filepath.Join(dir, e.Name())); err != nil {
			return nil, fmt.Errorf("rund.seccomp_profiles: %w", err)
		}
	}
	return out, nil
}

func loadProfile(path string) (*specs.LinuxSeccomp, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := trusted(f); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxProfileBytes+1))
	if err != nil {
		return nil, err
	}
	p, err := parseProfile(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// parseProfile reads linux.seccomp of the OCI runtime specification, strictly. What it
// does not name is refused to the container: a list of what is forbidden is not taken,
// as it lets pass what the kernel learns tomorrow.
func parseProfile(b []byte) (*specs.LinuxSeccomp, error) {
	if len(b) > maxProfileBytes {
		return nil, fmt.Errorf("a seccomp profile has at most %d bytes", maxProfileBytes)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	p := &specs.LinuxSeccomp{}
	if err := d.Decode(p); err != nil {
		return nil, fmt.Errorf("it is not linux.seccomp of the OCI runtime specification: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the profile")
	}
	switch p.DefaultAction {
	case specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap:
	default:
		return nil, fmt.Errorf("defaultAction is %.40q: use SCMP_ACT_ERRNO and name what is allowed", p.DefaultAction)
	}
	if p.ListenerPath != "" || p.ListenerMetadata != "" {
		return nil, errors.New("a profile that asks another process is not taken: leave listenerPath out")
	}
	n := 0
	for _, s := range p.Syscalls {
		switch n += len(s.Names); {
		case s.Action == specs.ActNotify:
			return nil, errors.New("a profile that asks another process is not taken: use another action than SCMP_ACT_NOTIFY")
		case len(s.Names) == 0 || n > maxProfileCalls:
			return nil, fmt.Errorf("a rule of a profile names system calls, all of them at most %d", maxProfileCalls)
		}
	}
	return p, nil
}
