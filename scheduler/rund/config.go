package rund

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/cni"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/netns"
)

// Config is the section `rund:` of the node's configuration file.
type Config struct {
	Containerd ContainerdConfig `yaml:"containerd"`
	// CgroupParent is the cgroup below which every task gets its own,
	// absolute in each hierarchy.
	CgroupParent string       `yaml:"cgroup_parent"`
	UserNS       UserNSConfig `yaml:"userns"`
	// Registries that need a CA of their own, by host[:port]; others are
	// verified against the system's roots. There is no insecure setting.
	Registries map[string]image.Registry `yaml:"registries"`
	// ImagePolicy is the path of this node's own image policy, which must admit an
	// image beside the cluster's; empty: it has none. It is read at start, and root's.
	ImagePolicy string `yaml:"image_policy"`
	// Lock: where it is "required" nothing is begun here unless the deployment lock is
	// on, or its deployers ended it, and only local root or a join token says whom to
	// trust first. Empty: a node that was told of no chain runs what managers say.
	Lock string `yaml:"lock"`
	// Exec: where it is "refused" no command is run in a container here. Empty: managers
	// say who may.
	Exec string `yaml:"exec"`
	// BindMounts is the allow-list for bind mounts. Empty: none.
	BindMounts []BindMount   `yaml:"bind_mounts"`
	Volumes    VolumesConfig `yaml:"volumes"`
	// AllowedCapabilities, as CAP_NET_ADMIN, and AllowedDevices are what containers may
	// be given here beyond what every one has. Empty: none.
	AllowedCapabilities []string        `yaml:"allowed_capabilities"`
	AllowedDevices      []AllowedDevice `yaml:"allowed_devices"`
	// SeccompProfiles is a directory of NAME.json, filters of system calls that services
	// may choose in the place of the default one; empty: none. SeccompUnconfined lets
	// them have none at all. Both are read at start.
	SeccompProfiles   string `yaml:"seccomp_profiles"`
	SeccompUnconfined bool   `yaml:"seccomp_unconfined"`
	// Init is a program without libraries that reaps processes nobody waits for, as the
	// first of containers that ask for one.
	Init   string       `yaml:"init"`
	Limits LimitsConfig `yaml:"limits"`
	GC     GCConfig     `yaml:"gc"`
	// CNI networks that this node has: none unless plugins are pinned.
	CNI cni.Config `yaml:"cni"`
}

const (
	lockRequired = "required"
	execRefused  = "refused"
)

// GCConfig says what the node keeps that nobody uses.
type GCConfig struct {
	// ImagesUnusedFor is how long an image stays that no task here uses.
	ImagesUnusedFor time.Duration `yaml:"images_unused_for"`
	// Above DiskHighPercent of containerd's disk unused images go at once,
	// until it is below DiskLowPercent.
	DiskHighPercent int `yaml:"disk_high_percent"`
	DiskLowPercent  int `yaml:"disk_low_percent"`
	// DeadPerSlot and DeadFor bound the ended containers whose file system and
	// log are kept, for each slot of a service and in time.
	DeadPerSlot int           `yaml:"dead_per_slot"`
	DeadFor     time.Duration `yaml:"dead_for"`
}

// ContainerdConfig says how containerd is reached.
type ContainerdConfig struct {
	Socket string `yaml:"socket"`
	// Runtime is the path of the OCI runtime; empty means runc from PATH of
	// containerd.
	Runtime string `yaml:"runtime"`
}

// UserNSConfig is the range of host ids that container ids 0 to Size-1 become.
type UserNSConfig struct {
	Base uint32 `yaml:"base"`
	Size uint32 `yaml:"size"`
	// Tasks are ranges of tasks that want one for themselves.
	Tasks TaskRanges `yaml:"tasks"`
}

// TaskRanges are Count ranges, each of the same size as that of all, from Base on.
type TaskRanges struct {
	Base  uint32 `yaml:"base"`
	Count uint32 `yaml:"count"`
}

// BindMount allows bind mounts from Path and what lies below it.
type BindMount struct {
	Path     string `yaml:"path"`
	ReadOnly bool   `yaml:"read_only"`
}

// AllowedDevice allows one device of the node, by its path, to containers.
type AllowedDevice struct {
	Path string `yaml:"path"`
	// Access is what of r, w and m they may have; empty: rw.
	Access string `yaml:"access"`
}

// LimitsConfig bounds what a task may use when its specification does not say.
type LimitsConfig struct {
	Pids       int64 `yaml:"pids"`
	LogBytes   int64 `yaml:"log_bytes"`   // per file, two files a task
	ImageBytes int64 `yaml:"image_bytes"` // per image, compressed and unpacked
	TmpfsBytes int64 `yaml:"tmpfs_bytes"` // tmpfs mounts without a size
}

// Defaults is the configuration of a node whose file says nothing.
func Defaults() Config {
	return Config{
		Containerd:   ContainerdConfig{Socket: "/run/containerd/containerd.sock"},
		CgroupParent: "/redoubt",
		Init:         "/usr/bin/tini-static",
		UserNS:       UserNSConfig{Base: 0x4000_0000, Size: 65536, Tasks: TaskRanges{Base: 0x4100_0000, Count: 64}},
		Limits:       LimitsConfig{Pids: 512, LogBytes: 1 << 20, ImageBytes: 16 << 30, TmpfsBytes: 64 << 20},
		CNI:          cni.Defaults(),
		GC:           GCConfig{ImagesUnusedFor: 7 * 24 * time.Hour, DiskHighPercent: 85, DiskLowPercent: 75, DeadPerSlot: 5, DeadFor: 7 * 24 * time.Hour},
	}
}

// Validate checks what can be checked without touching the machine.
func (c *Config) Validate() error {
	if c.Lock != "" && c.Lock != lockRequired {
		return fmt.Errorf("rund.lock %.40q must be %s, or left out", c.Lock, lockRequired)
	}
	if c.Exec != "" && c.Exec != execRefused {
		return fmt.Errorf("rund.exec %.40q must be %s, or left out", c.Exec, execRefused)
	}
	if !cleanAbs(c.Containerd.Socket) {
		return fmt.Errorf("rund.containerd.socket %q must be a clean absolute path", c.Containerd.Socket)
	}
	if r := c.Containerd.Runtime; r != "" && !cleanAbs(r) {
		return fmt.Errorf("rund.containerd.runtime %q must be a clean absolute path", r)
	}
	if !cleanAbs(c.CgroupParent) || c.CgroupParent == "/" {
		return fmt.Errorf("rund.cgroup_parent %q must be a clean absolute path other than /", c.CgroupParent)
	}
	if err := c.ids().Validate(); err != nil {
		return fmt.Errorf("rund.userns: %w", err)
	}
	if err := c.validateRanges(); err != nil {
		return fmt.Errorf("rund.userns.tasks: %w", err)
	}
	if _, err := image.NewRegistries(c.Registries); err != nil {
		return fmt.Errorf("rund.registries: %w", err)
	}
	if p := c.ImagePolicy; p != "" && !cleanAbs(p) {
		return fmt.Errorf("rund.image_policy %q must be a clean absolute path", p)
	}
	for _, b := range c.BindMounts {
		if !cleanAbs(b.Path) || b.Path == "/" {
			return fmt.Errorf("rund.bind_mounts: %q must be a clean absolute path other than /", b.Path)
		}
	}
	if err := c.Volumes.validate(); err != nil {
		return fmt.Errorf("rund.volumes.%w", err)
	}
	if err := c.validateAllowed(); err != nil {
		return err
	}
	if err := c.CNI.Validate(); err != nil {
		return fmt.Errorf("rund.cni: %w", err)
	}
	if err := c.GC.validate(); err != nil {
		return fmt.Errorf("rund.gc.%w", err)
	}
	for _, l := range []struct {
		name   string
		v, min int64
	}{
		{"pids", c.Limits.Pids, 8}, {"log_bytes", c.Limits.LogBytes, 64 << 10},
		{"image_bytes", c.Limits.ImageBytes, 1 << 20}, {"tmpfs_bytes", c.Limits.TmpfsBytes, 1 << 12},
	} {
		if l.v < l.min {
			return fmt.Errorf("rund.limits.%s is %d: at least %d is needed", l.name, l.v, l.min)
		}
	}
	return nil
}

func (g *GCConfig) validate() error {
	switch {
	case g.ImagesUnusedFor < time.Hour:
		return fmt.Errorf("images_unused_for is %s: at least 1h is needed", g.ImagesUnusedFor)
	case g.DiskHighPercent < 1 || g.DiskHighPercent > 100:
		return fmt.Errorf("disk_high_percent is %d: use 1 to 100", g.DiskHighPercent)
	case g.DiskLowPercent < 0 || g.DiskLowPercent >= g.DiskHighPercent:
		return fmt.Errorf("disk_low_percent is %d: it must be less than disk_high_percent, %d", g.DiskLowPercent, g.DiskHighPercent)
	case g.DeadPerSlot < 0:
		return fmt.Errorf("dead_per_slot is %d: use 0 or more", g.DeadPerSlot)
	case g.DeadFor < 0:
		return fmt.Errorf("dead_for is %s: use 0s or more", g.DeadFor)
	}
	return nil
}

func (c *Config) ids() netns.IDMap { return netns.IDMap{Base: c.UserNS.Base, Size: c.UserNS.Size} }

func cleanAbs(p string) bool {
	return filepath.IsAbs(p) && filepath.Clean(p) == p && !strings.ContainsRune(p, 0)
}
