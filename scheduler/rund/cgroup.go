package rund

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const cgroupRoot = "/sys/fs/cgroup"

// unified reports whether this machine has only cgroup v2.
func unified() bool {
	_, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers"))
	return err == nil
}

// oomKills returns how many processes the kernel killed in a cgroup because its
// memory limit was reached. It must be asked before the runtime removes the
// cgroup; unlike containerd's event it cannot arrive late.
func oomKills(cgroup string) (int64, error) {
	file := filepath.Join(cgroupRoot, "memory", cgroup, "memory.oom_control")
	if unified() {
		file = filepath.Join(cgroupRoot, cgroup, "memory.events")
	}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if name, value, ok := strings.Cut(sc.Text(), " "); ok && name == "oom_kill" {
			return strconv.ParseInt(value, 10, 64)
		}
	}
	return 0, nil
}

// controllers returns the available cgroup controllers.
func controllers() map[string]bool {
	found := map[string]bool{}
	if unified() {
		b, err := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers"))
		if err != nil {
			return found
		}
		for _, c := range strings.Fields(string(b)) {
			found[c] = true
		}
		return found
	}
	for _, c := range []string{"memory", "pids", "cpu"} {
		_, err := os.Stat(filepath.Join(cgroupRoot, c, "cgroup.procs"))
		found[c] = err == nil
	}
	return found
}
