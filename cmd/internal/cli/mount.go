package cli

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
)

// parseMount reads --mount type=volume|bind|tmpfs,source=,target=,readonly, with
// volume-…, bind-propagation, tmpfs-size and tmpfs-mode, in Docker's form.
func parseMount(s string) (*taskpb.Mount, error) {
	m := new(taskpb.Mount)
	kind := "volume" // Docker's default
	seen := map[string]bool{}
	for field := range strings.SplitSeq(s, ",") {
		k, v, hasValue := strings.Cut(field, "=")
		k = canonicalMountKey(strings.ToLower(strings.TrimSpace(k)))
		if seen[k] && k != "volume-opt" && k != "volume-label" {
			return nil, fmt.Errorf("%q: the key %q is given twice", s, k)
		}
		seen[k] = true
		if !hasValue && k != "readonly" && k != "volume-nocopy" {
			return nil, fmt.Errorf("%q: %q needs a value", s, k)
		}
		if k == "type" {
			kind = strings.ToLower(v)
			continue
		}
		set := setMount
		if strings.HasPrefix(k, "volume-") {
			set = setVolume
		}
		if err := set(m, k, v, hasValue); err != nil {
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
		return mountBool(&m.ReadOnly, k, v, hasValue)
	case "bind-propagation":
		m.Bind = &taskpb.BindOptions{Propagation: v}
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
		return fmt.Errorf("unknown key %q: use type, source, target, readonly, volume-driver, volume-opt, volume-label, volume-nocopy, volume-subpath, bind-propagation, tmpfs-size or tmpfs-mode", k)
	}
	return nil
}

// mountBool reads a key that may stand alone.
func mountBool(to *bool, k, v string, hasValue bool) (err error) {
	if *to = true; hasValue {
		if *to, err = strconv.ParseBool(v); err != nil {
			return fmt.Errorf("%s=%q: use true or false", k, v)
		}
	}
	return nil
}

// setVolume sets what is of volumes alone.
func setVolume(m *taskpb.Mount, k, v string, hasValue bool) error {
	if m.Volume == nil {
		m.Volume = &taskpb.VolumeUse{}
	}
	into := func(to *map[string]string) error {
		name, value, _ := strings.Cut(v, "=")
		if name == "" {
			return fmt.Errorf("%s=%q: write %s=KEY=VALUE", k, v, k)
		}
		if _, twice := (*to)[name]; twice {
			return fmt.Errorf("%s: the key %q is given twice", k, name)
		}
		if *to == nil {
			*to = map[string]string{}
		}
		(*to)[name] = value
		return nil
	}
	switch k {
	case "volume-driver":
		m.Volume.Driver = v
	case "volume-opt":
		return into(&m.Volume.Options)
	case "volume-label":
		return into(&m.Volume.Labels)
	case "volume-nocopy":
		return mountBool(&m.Volume.NoCopy, k, v, hasValue)
	case "volume-subpath":
		m.Volume.Subpath = v
	default:
		return setMount(m, k, v, hasValue) // which says what there is
	}
	return nil
}

func checkMount(m *taskpb.Mount, kind string, seen map[string]bool) error {
	if !path.IsAbs(m.Target) || path.Clean(m.Target) != m.Target || m.Target == "/" {
		return fmt.Errorf("target %q: give an absolute, clean path below /", m.Target)
	}
	for k := range seen {
		if of, _, ok := strings.Cut(k, "-"); ok && of != kind && slices.Contains([]string{"volume", "bind", "tmpfs"}, kind) {
			return fmt.Errorf("%s is for type=%s", k, of)
		}
	}
	switch kind {
	case "volume":
		if m.Volume == nil {
			m.Volume = &taskpb.VolumeUse{}
		}
		m.Type, m.Volume.Name, m.Source = taskpb.Mount_TYPE_VOLUME, m.Source, ""
		switch {
		case m.Volume.Name == "":
			return fmt.Errorf("the volume at %s has no name: give it one (source=NAME), else no task finds its data again", m.Target)
		case path.IsAbs(m.Volume.Name):
			return fmt.Errorf("source %q is a path: use type=bind for a directory of the node, or a volume's name", m.Volume.Name)
		}
		return volumes.CheckUse(m.Volume)
	case "bind":
		m.Type = taskpb.Mount_TYPE_BIND
		if !path.IsAbs(m.Source) || path.Clean(m.Source) != m.Source {
			return fmt.Errorf("source %q: give an absolute, clean path", m.Source)
		}
	case "tmpfs":
		m.Type = taskpb.Mount_TYPE_TMPFS
		if m.Source != "" {
			return fmt.Errorf("a tmpfs has no source")
		}
	default:
		return fmt.Errorf("type %q is not supported: use type=volume, type=bind or type=tmpfs", kind)
	}
	return nil
}

// parseVolume reads --volume NAME:PATH[:ro][,nocopy], or DIRECTORY:PATH[:ro] of the node.
func parseVolume(s string) (*taskpb.Mount, error) {
	parts := strings.Split(s, ":")
	if len(parts) < 2 || len(parts) > 3 {
		return nil, fmt.Errorf("%q: write NAME:PATH or NAME:PATH:ro; a volume has a name, else no task finds its data again", s)
	}
	m := &taskpb.Mount{Source: parts[0], Target: parts[1]}
	kind, seen := "volume", map[string]bool{}
	if path.IsAbs(m.Source) {
		kind = "bind"
	}
	if len(parts) == 3 {
		for o := range strings.SplitSeq(parts[2], ",") {
			switch {
			case o == "ro" || o == "rw":
				m.ReadOnly = o == "ro"
			case o == "nocopy":
				m.Volume = &taskpb.VolumeUse{NoCopy: true}
				seen["volume-nocopy"] = true
			default:
				return nil, fmt.Errorf("%q: option %q is not supported: use ro, rw or nocopy", s, o)
			}
		}
	}
	return m, checkMount(m, kind, seen)
}
