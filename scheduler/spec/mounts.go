package spec

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
)

// reserved are the targets that the node itself fills; reservedTrees also
// everything below.
var (
	reserved = map[string]bool{
		"/dev": true, "/etc/hosts": true, "/etc/hostname": true, "/etc/resolv.conf": true,
	}
	reservedTrees = []string{"/proc", "/sys"}
)

func validateMounts(mounts []*taskpb.Mount) error {
	if len(mounts) > MaxMounts {
		return fmt.Errorf("there are %d mounts: at most %d are allowed", len(mounts), MaxMounts)
	}
	seen := make(map[string]bool, len(mounts))
	for _, m := range mounts {
		if err := validateMount(m); err != nil {
			return err
		}
		if seen[m.GetTarget()] {
			return fmt.Errorf("mount target %s is used twice: keep one", m.GetTarget())
		}
		seen[m.GetTarget()] = true
	}
	return nil
}

func validateMount(m *taskpb.Mount) error {
	if err := checkPath("mount target", m.GetTarget()); err != nil {
		return err
	}
	if err := checkTarget("mount target", m.GetTarget()); err != nil {
		return err
	}
	if m.GetVolume() != nil && m.GetType() != taskpb.Mount_TYPE_VOLUME {
		return fmt.Errorf("mount %s: a volume is for type=volume: leave it out", m.GetTarget())
	}
	if m.GetBind() != nil && m.GetType() != taskpb.Mount_TYPE_BIND {
		return fmt.Errorf("mount %s: options of a bind mount are for type=bind: leave them out", m.GetTarget())
	}
	switch m.GetType() {
	case taskpb.Mount_TYPE_VOLUME:
		switch {
		case m.GetSource() != "":
			return fmt.Errorf("mount %s: a volume has a name and no path: write its name as the volume's", m.GetTarget())
		case m.GetTmpfsSize() != 0 || m.GetTmpfsMode() != 0:
			return fmt.Errorf("mount %s: size and mode are for type=tmpfs: leave them out", m.GetTarget())
		}
		if err := volumes.CheckUse(m.GetVolume()); err != nil {
			return fmt.Errorf("mount %s: %w", m.GetTarget(), err)
		}
	case taskpb.Mount_TYPE_BIND:
		if err := checkPath("mount source", m.GetSource()); err != nil {
			return err
		}
		if m.GetTmpfsSize() != 0 || m.GetTmpfsMode() != 0 {
			return fmt.Errorf("mount %s: size and mode are for type=tmpfs: leave them out", m.GetTarget())
		}
		if p := m.GetBind().GetPropagation(); p != "" && p != "rprivate" {
			return fmt.Errorf("mount %s: the propagation can be rprivate alone: what a container mounts is seen by nobody else, nor the other way round", m.GetTarget())
		}
	case taskpb.Mount_TYPE_TMPFS:
		switch {
		case m.GetSource() != "":
			return fmt.Errorf("mount %s: a tmpfs has no source: leave it out", m.GetTarget())
		case m.GetTmpfsSize() < 0 || m.GetTmpfsSize() > MaxTmpfsBytes:
			return fmt.Errorf("mount %s: tmpfs size is %d: use 0 to %d bytes", m.GetTarget(), m.GetTmpfsSize(), int64(MaxTmpfsBytes))
		case m.GetTmpfsMode() > 0o1777:
			return fmt.Errorf("mount %s: tmpfs mode is %o: use 0 to 1777", m.GetTarget(), m.GetTmpfsMode())
		}
	default:
		return fmt.Errorf("mount %s: the type is unknown: use bind, tmpfs or volume", m.GetTarget())
	}
	return nil
}

// checkTarget refuses places that are filled by others.
func checkTarget(what, p string) error {
	if reserved[p] {
		return fmt.Errorf("%s %s is filled by the node: choose another", what, p)
	}
	for _, tree := range reservedTrees {
		if p == tree || strings.HasPrefix(p, tree+"/") {
			return fmt.Errorf("%s %s lies in %s, which the kernel fills: choose another", what, p, tree)
		}
	}
	return nil
}

// checkPath wants an absolute path below the root in its one spelling, so that
// comparing strings compares places.
func checkPath(what, p string) error {
	switch {
	case p == "":
		return fmt.Errorf("%s is empty: give an absolute path", what)
	case len(p) > MaxPath:
		return fmt.Errorf("%s is %d characters long: at most %d are allowed", what, len(p), MaxPath)
	case strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("%s has a control character: remove it", what)
	case p[0] != '/':
		return fmt.Errorf("%s %q is not absolute: start it with /", what, clip(p))
	case p == "/" && what != "workdir":
		return fmt.Errorf("%s is the root directory: choose one below it", what)
	case path.Clean(p) != p:
		return fmt.Errorf("%s %q: write it without //, . and .. and without a slash at the end", what, clip(p))
	}
	return nil
}

// stackLabel says which stack something is part of, to roles as well.
const stackLabel = "com.docker.stack.namespace"

// validateVolumes looks at what a service's volumes are together, and with the service.
func validateVolumes(s *schedulerpb.ServiceSpec) error {
	c := s.GetTask().GetContainer()
	first := map[string]*taskpb.VolumeUse{}
	for _, m := range c.GetMounts() {
		u := m.GetVolume()
		if u == nil {
			continue
		}
		if c.GetIsolation() == taskpb.Isolation_ISOLATION_USERNS {
			return fmt.Errorf("mount %s: a volume's files belong to the ids that all containers of a node share: leave isolation userns out, or use a tmpfs", m.GetTarget())
		}
		if slices.ContainsFunc([]*schedulerpb.UpdateConfig{s.GetUpdate(), s.GetRollback()}, func(c *schedulerpb.UpdateConfig) bool {
			return c.GetOrder() == schedulerpb.UpdateConfig_ORDER_START_FIRST
		}) && !PerNode(s) {
			return fmt.Errorf("volume %s: with order start-first a task begins beside the one that has its data, and so on another node without it: use order stop-first", u.GetName())
		}
		// Else who may make services could make something of another's stack.
		if is, ok := u.GetLabels()[stackLabel]; ok && is != s.GetLabels()[stackLabel] {
			return fmt.Errorf("volume %s: the label %s must be that of the service", u.GetName(), stackLabel)
		}
		was := first[u.GetName()]
		if was == nil {
			first[u.GetName()] = u
		} else if was.GetDriver() != u.GetDriver() || !maps.Equal(was.GetLabels(), u.GetLabels()) || !maps.Equal(was.GetOptions(), u.GetOptions()) {
			return fmt.Errorf("volume %s is named twice, with other drivers, labels or options: write them the same", u.GetName())
		}
	}
	return nil
}
