package spec

import (
	"cmp"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/scheduler/places"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func checkFiles(c *taskpb.ContainerSpec) error {
	return cmp.Or(validateFiles(c), CheckPlaces(&taskpb.TaskSpec{Container: c}))
}

func TestFiles(t *testing.T) {
	use := func(edit func(*taskpb.FileUse)) *taskpb.ContainerSpec {
		u := &taskpb.FileUse{Source: "db", OnUpdate: taskpb.OnUpdate_ON_UPDATE_NONE}
		edit(u)
		return &taskpb.ContainerSpec{Secrets: []*taskpb.FileUse{u}}
	}
	for _, good := range []func(*taskpb.FileUse){
		func(*taskpb.FileUse) {},
		func(u *taskpb.FileUse) { u.Target, u.Uid, u.Gid, u.Mode = "password", 999, 999, 0o440 },
		func(u *taskpb.FileUse) { u.Target = "/etc/app/key.pem" },
		func(u *taskpb.FileUse) { u.Target = "/run/secrets/db" },
		func(u *taskpb.FileUse) { u.OnUpdate, u.Signal = taskpb.OnUpdate_ON_UPDATE_SIGNAL, "SIGHUP" },
		func(u *taskpb.FileUse) { u.OnUpdate = taskpb.OnUpdate_ON_UPDATE_RESTART },
		func(u *taskpb.FileUse) { u.Version = 3 },
	} {
		if err := checkFiles(use(good)); err != nil {
			t.Error(err)
		}
	}
	for want, edit := range map[string]func(*taskpb.FileUse){
		"the name is empty":                  func(u *taskpb.FileUse) { u.Source = "" },
		"give a name, or an absolute path":   func(u *taskpb.FileUse) { u.Target = "a/b" },
		"names that begin with .. are":       func(u *taskpb.FileUse) { u.Target = "..data" },
		"the directory itself":               func(u *taskpb.FileUse) { u.Target = "." },
		"no control characters":              func(u *taskpb.FileUse) { u.Target = "a\nb" },
		"without //, . and ..":               func(u *taskpb.FileUse) { u.Target = "/etc/../proc/x" },
		"which the kernel fills":             func(u *taskpb.FileUse) { u.Target = "/proc/1/mem" },
		"is filled by the node":              func(u *taskpb.FileUse) { u.Target = "/etc/hosts" },
		"has names and no directories":       func(u *taskpb.FileUse) { u.Target = "/run/secrets/a/b" },
		"/run/secrets: /run/secrets has":     func(u *taskpb.FileUse) { u.Target = "/run/secrets" },
		"/run/configs/..data: /run/configs":  func(u *taskpb.FileUse) { u.Target = "/run/configs/..data" },
		"more than permissions":              func(u *taskpb.FileUse) { u.Mode = 0o4755 },
		"the owner 70000:0 does not exist":   func(u *taskpb.FileUse) { u.Uid = 70000 },
		"a signal belongs":                   func(u *taskpb.FileUse) { u.Signal = "SIGHUP" },
		"and the other way round":            func(u *taskpb.FileUse) { u.OnUpdate = taskpb.OnUpdate_ON_UPDATE_SIGNAL },
		"\"NOSUCH\" is unknown":              func(u *taskpb.FileUse) { u.Signal = "NOSUCH" },
		"what an update is to do is unknown": func(u *taskpb.FileUse) { u.OnUpdate = 9 },
		"it is version 2 for ever":           func(u *taskpb.FileUse) { u.Version, u.OnUpdate = 2, taskpb.OnUpdate_ON_UPDATE_RESTART },
	} {
		if err := checkFiles(use(edit)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	two := use(func(u *taskpb.FileUse) { u.Target = "a" })
	two.Secrets = append(two.Secrets, &taskpb.FileUse{Source: "other", Target: "/run/secrets/a"})
	if err := checkFiles(two); err == nil || !strings.Contains(err.Error(), "give one another target") {
		t.Errorf("two in one place: %v", err)
	}
	over := use(func(u *taskpb.FileUse) { u.Target = "/etc/a" })
	over.Mounts = []*taskpb.Mount{{Target: "/etc/a"}}
	if err := checkFiles(over); err == nil {
		t.Error("one in the place of a mount")
	}
	over.Mounts[0].Target = "/run/secrets"
	if err := checkFiles(over); err == nil {
		t.Error("a mount in the place of all")
	}
	many := &taskpb.ContainerSpec{}
	for range places.MaxFiles + 1 {
		many.Configs = append(many.Configs, &taskpb.FileUse{Source: "a"})
	}
	if err := checkFiles(many); err == nil {
		t.Error("too many")
	}
}
