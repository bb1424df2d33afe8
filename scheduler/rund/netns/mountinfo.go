package netns

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// isSharedMount reports whether dir is a mount point with shared propagation.
func isSharedMount(dir string) (bool, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false, err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	defer f.Close()
	shared := false
	for sc := bufio.NewScanner(f); sc.Scan(); {
		point, isShared, ok := parseMountinfo(sc.Text())
		if ok && point == dir {
			shared = isShared // the last one is on top
		}
	}
	return shared, nil
}

// parseMountinfo reads the mount point and propagation of a line of
// proc_pid_mountinfo(5).
func parseMountinfo(line string) (point string, shared, ok bool) {
	f := strings.Fields(line)
	if len(f) < 7 {
		return "", false, false
	}
	end := slices.Index(f[6:], "-")
	if end < 0 {
		return "", false, false
	}
	for _, o := range f[6 : 6+end] {
		shared = shared || strings.HasPrefix(o, "shared:")
	}
	return unescape(f[4]), shared, true
}

// unescape undoes the kernel's \ooo for space, tab, newline and backslash.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
