package cli

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// parseMount reads --mount type=bind|tmpfs,source=,target=,readonly,
// tmpfs-size=,tmpfs-mode=, in Docker's form.
func parseMount(s string) (*taskpb.Mount, error) {
	m := new(taskpb.Mount)
	kind := "volume" // Docker's default
	seen := map[string]bool{}
	for field := range strings.SplitSeq(s, ",") {
		k, v, hasValue := strings.Cut(field, "=")
		k = canonicalMountKey(strings.ToLower(strings.TrimSpace(k)))
		if seen[k] {
			return nil, fmt.Errorf("%q: the key %q is given twice", s, k)
		}
		seen[k] = true
		if !hasValue && k != "readonly" {
			return nil, fmt.Errorf("%q: %q needs a value", s, k)
		}
		if k == "type" {
			kind = strings.ToLower(v)
			continue
		}
		if err := setMount(m, k, v, hasValue); err != nil {
			return nil, err
		}
	}
	return m, checkMount(m, kind, seen)
}

func canonicalMountKey(k string) string {
	switch k {
	case "src":
		return "source"
	case "dst", "destination":
		return "target"
	case "ro":
		return "readonly"
	}
	return k
}

func setMount(m *taskpb.Mount, k, v string, hasValue bool) error {
	switch k {
	case "source":
		m.Source = v
	case "target":
		m.Target = v
	case "readonly":
		m.ReadOnly = true
		if hasValue {
			b, err := strconv.ParseBool(v)
			if err != nil {
				return fmt.Errorf("readonly=%q: use true or false", v)
			}
			m.ReadOnly = b
		}
	case "tmpfs-size":
		n, err := units.RAMInBytes(v)
		if err != nil || n <= 0 {
			return fmt.Errorf("tmpfs-size %q: write a size, as 64m", v)
		}
		m.TmpfsSize = n
	case "tmpfs-mode":
		n, err := strconv.ParseUint(v, 8, 32)
		if err != nil || n > 0o1777 {
			return fmt.Errorf("tmpfs-mode %q: write an octal mode up to 1777", v)
		}
		m.TmpfsMode = uint32(n)
	default:
		return fmt.Errorf("unknown key %q: use type, source, target, readonly, tmpfs-size or tmpfs-mode", k)
	}
	return nil
}

func checkMount(m *taskpb.Mount, kind string, seen map[string]bool) error {
	if !path.IsAbs(m.Target) || path.Clean(m.Target) != m.Target || m.Target == "/" {
		return fmt.Errorf("target %q: give an absolute, clean path below /", m.Target)
	}
	switch kind {
	case "bind":
		m.Type = taskpb.Mount_TYPE_BIND
		if !path.IsAbs(m.Source) || path.Clean(m.Source) != m.Source {
			return fmt.Errorf("source %q: give an absolute, clean path", m.Source)
		}
		if seen["tmpfs-size"] || seen["tmpfs-mode"] {
			return fmt.Errorf("tmpfs-size and tmpfs-mode are for type=tmpfs")
		}
	case "tmpfs":
		m.Type = taskpb.Mount_TYPE_TMPFS
		if m.Source != "" {
			return fmt.Errorf("a tmpfs has no source")
		}
	default:
		return fmt.Errorf("type %q is not supported: use type=bind or type=tmpfs", kind)
	}
	return nil
}
