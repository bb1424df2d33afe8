// Package places says where a container has what the node puts into it: its secrets and
// configs, and its identity. Managers refuse a service whose places clash, and rund a
// task: both by what stands here, so that they mean the same.
//
// What may be mounted where for other reasons (what the kernel fills, how long a path
// is) is theirs to say. It imports nothing but the messages.
package places

import (
	"fmt"
	"path"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Where a container finds its secrets and configs, unless a use says another place,
// and the Workload API.
const (
	SecretsDir  = "/run/secrets"
	ConfigsDir  = "/run/configs"
	IdentityDir = "/run/redoubt/spiffe"
)

const (
	// MaxFiles is how many secrets and configs a task may have, MaxBytes how much
	// they are together. The credential for a registry is none of them.
	MaxFiles = 64
	MaxBytes = 8 << 20
)

// Of is where a container has a secret or config; empty: the use does not say, and it
// is called as what it is of.
func Of(u *taskpb.FileUse, config bool) string {
	switch t := u.GetTarget(); {
	case t == "" || path.IsAbs(t):
		return t
	case config:
		return ConfigsDir + "/" + t
	default:
		return SecretsDir + "/" + t
	}
}

// In takes a place apart where it is in the directory of secrets or of configs; false:
// it is elsewhere, and what is there is mounted by itself.
func In(p string) (dir, name string, ok bool) {
	dir, name = path.Split(p)
	dir = strings.TrimSuffix(dir, "/")
	if name == "" || dir != SecretsDir && dir != ConfigsDir {
		return "", "", false
	}
	return dir, name, true
}

// Within reports whether p is dir or lies below it.
func Within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// Check returns an error where two files of a task, or a file and a mount, or either
// and the files of its identity, would be in one place or below each other where
// nothing can be, and where one is in a directory that is the node's. Paths are clean.
func Check(t *taskpb.TaskSpec) error {
	c, own := t.GetContainer(), t.GetIdentity().GetFiles()
	files, err := filePlaces(c)
	if err != nil {
		return err
	}
	mounts := map[string]bool{}
	for _, m := range c.GetMounts() {
		mounts[m.GetTarget()] = true
	}
	if len(c.GetSecrets()) > 0 && mounts[SecretsDir] || len(c.GetConfigs()) > 0 && mounts[ConfigsDir] {
		return fmt.Errorf("a mount is where secrets or configs go: put it elsewhere than %s and %s", SecretsDir, ConfigsDir)
	}
	seen := map[string]bool{}
	for _, p := range files {
		if mounts[p] || seen[p] {
			return fmt.Errorf("two secrets, configs or mounts are at %s: give one another target", ident.Clip(p))
		}
		seen[p] = true
	}
	for p := range seen {
		for above := path.Dir(p); above != "/" && above != "."; above = path.Dir(above) {
			if seen[above] {
				return fmt.Errorf("%s lies below %s, which is a file: give one another target", ident.Clip(p), ident.Clip(above))
			}
		}
	}
	for p := range mounts {
		for above := path.Dir(p); above != "/" && above != "."; above = path.Dir(above) {
			if seen[above] {
				return fmt.Errorf("mount target %s lies below %s, which is a file: give one another target", ident.Clip(p), ident.Clip(above))
			}
		}
	}
	if own == "" {
		return nil
	}
	for _, taken := range []string{IdentityDir, SecretsDir, ConfigsDir} {
		if Within(own, taken) || Within(taken, own) {
			return fmt.Errorf("files of the identity: %s belongs to the node, choose another directory than %s", taken, ident.Clip(own))
		}
	}
	for p := range mounts {
		if Within(p, own) {
			return fmt.Errorf("mount target %s is where the files of the identity go, %s: choose another for one", ident.Clip(p), ident.Clip(own))
		}
	}
	for p := range seen {
		if Within(p, own) || Within(own, p) {
			return fmt.Errorf("the secret or config at %s and the files of the identity at %s are in one place: choose another for one", ident.Clip(p), ident.Clip(own))
		}
	}
	return nil
}

// filePlaces are those of the secrets and configs that say one.
func filePlaces(c *taskpb.ContainerSpec) (out []string, err error) {
	add := func(uses []*taskpb.FileUse, config bool) {
		for _, u := range uses {
			p := Of(u, config)
			if p == "" || err != nil {
				continue
			}
			for _, own := range []string{SecretsDir, ConfigsDir} {
				if dir, name, in := In(p); Within(p, own) && (!in || dir != own || strings.HasPrefix(name, "..")) {
					err = fmt.Errorf("file target %s: %s has names and no directories: choose another", ident.Clip(p), own)
				}
			}
			if Within(p, IdentityDir) {
				err = fmt.Errorf("file target %s: %s belongs to the node: choose another", ident.Clip(p), IdentityDir)
			}
			out = append(out, p)
		}
	}
	add(c.GetSecrets(), false)
	add(c.GetConfigs(), true)
	return out, err
}
