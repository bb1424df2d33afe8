package rund

import (
	"errors"
	"fmt"
	"os"
	"path"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/places"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/ocispec"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/taskfiles"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// granted is a secret or a config that a task's specification names.
type granted struct {
	*taskpb.FileUse
	config bool
	own    int // its number in the specification, secrets first
}

// grants are those of a task, in the order in which they are delivered.
func grants(s *taskpb.TaskSpec) (out []granted) {
	c := s.GetContainer()
	for _, u := range c.GetSecrets() {
		out = append(out, granted{u, false, len(out)})
	}
	for _, u := range c.GetConfigs() {
		out = append(out, granted{u, true, len(out)})
	}
	return out
}

// needsFiles reports whether a task begins only with what is delivered to it.
func needsFiles(s *taskpb.TaskSpec) bool {
	return len(grants(s)) > 0 || s.GetContainer().GetRegistryAuth() != ""
}

// place is where it goes: into a directory under a name, or, with neither, to a path
// of its own in the container. name is what the secret or config is called.
func (g granted) place(name string) (dir taskfiles.Dir, file, target string) {
	use := g.FileUse
	if use.GetTarget() == "" {
		use = &taskpb.FileUse{Target: name}
	}
	at := places.Of(use, g.config)
	switch dir, file, _ := places.In(at); dir {
	case places.SecretsDir:
		return taskfiles.Secrets, file, ""
	case places.ConfigsDir:
		return taskfiles.Configs, file, ""
	}
	return "", "", at
}

// checkGrants refuses uses that cannot be.
func (s *Server) checkGrants(spec *taskpb.TaskSpec) error {
	all := grants(spec)
	if len(all) > places.MaxFiles {
		return fmt.Errorf("%d secrets and configs: at most %d are allowed", len(all), places.MaxFiles)
	}
	if r := spec.GetContainer().GetRegistryAuth(); r != "" && !ident.Valid(r) {
		return errors.New("the credential of the image's registry is named by something that is no id")
	}
	if err := places.Check(spec); err != nil {
		return err
	}
	for _, g := range all {
		if !ident.Valid(g.GetSource()) {
			return fmt.Errorf("%q is no id of a secret or config", g.GetSource())
		}
		dir, file, target := g.place("name")
		if dir != "" {
			if err := taskfiles.CheckName(file); err != nil {
				return err
			}
			target = path.Join("/run", string(dir), file)
		} else if err := ocispec.CheckTarget(target); err != nil {
			return err
		}
		if g.GetUid() >= s.config.UserNS.Size || g.GetGid() >= s.config.UserNS.Size {
			return fmt.Errorf("owner %d:%d of %s lies outside the user namespace of %d ids", g.GetUid(), g.GetGid(), target, s.config.UserNS.Size)
		}
		if g.GetMode()&^0o777 != 0 {
			return fmt.Errorf("mode %o of %s has more than permissions", g.GetMode(), target)
		}
		if sig, err := parseSignal(g.GetSignal()); err != nil || (sig == 0) == (g.GetOnUpdate() == taskpb.OnUpdate_ON_UPDATE_SIGNAL) {
			return errors.Join(err, fmt.Errorf("%s: a signal belongs to an update that sends one", target))
		}
	}
	return nil
}

// fileMounts are what a task's container gets of them.
func (s *Server) fileMounts(id string, spec *taskpb.TaskSpec) (out []ocispec.Mount) {
	has := map[taskfiles.Dir]bool{}
	for _, g := range grants(spec) {
		dir, _, target := g.place("name")
		if dir == "" {
			out = append(out, ocispec.Mount{Source: s.files.OwnPath(id, g.own), Target: target, ReadOnly: true})
		} else if !has[dir] {
			has[dir] = true
			out = append(out, ocispec.Mount{Source: s.files.DirPath(id, dir), Target: path.Join("/run", string(dir)), ReadOnly: true})
		}
	}
	return out
}

// file is what becomes of one: private, unless all in it is anybody's to read.
func (s *Server) file(task string, g granted, name string, private bool, data []byte) taskfiles.File {
	base := s.ids(task).Base
	f := taskfiles.File{UID: int(base + g.GetUid()), GID: int(base + g.GetGid()), Mode: os.FileMode(g.GetMode()), Data: data}
	if f.Mode == 0 {
		f.Mode = 0o444
		if private {
			f.Mode = 0o400
		}
	}
	if f.Dir, f.Name, _ = g.place(name); f.Dir == "" {
		f.Own = g.own
	}
	return f
}
