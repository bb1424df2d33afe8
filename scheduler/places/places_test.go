package places_test

import (
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/scheduler/places"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// task has secrets and configs at these targets, mounts, and its identity's files.
func task(secrets, configs, mounts []string, identity string) *taskpb.TaskSpec {
	t := &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{}, Identity: &taskpb.Identity{Files: identity}}
	for _, at := range secrets {
		t.Container.Secrets = append(t.Container.Secrets, &taskpb.FileUse{Source: "s", Target: at})
	}
	for _, at := range configs {
		t.Container.Configs = append(t.Container.Configs, &taskpb.FileUse{Source: "c", Target: at})
	}
	for _, at := range mounts {
		t.Container.Mounts = append(t.Container.Mounts, &taskpb.Mount{Target: at})
	}
	return t
}

func TestCheck(t *testing.T) {
	type s = []string
	for _, good := range []*taskpb.TaskSpec{
		task(nil, nil, nil, ""),
		task(s{"", "a", "/etc/a"}, s{"", "a", "/etc/b"}, s{"/data"}, "/certs"),
		task(s{"/run/configs/x", "/run/secrets/y"}, s{"x2"}, nil, "/run/certs"),
		task(s{"/data/secret"}, nil, s{"/data"}, ""), // in what is mounted
		task(s{"/certs2"}, nil, s{"/certificates"}, "/certs"),
		task(nil, nil, s{"/run/secrets"}, ""), // there are no secrets to be there
	} {
		if err := places.Check(good); err != nil {
			t.Errorf("%v: %v", good, err)
		}
	}
	for _, bad := range []struct {
		want string
		task *taskpb.TaskSpec
	}{
		{"two secrets, configs or mounts are at /run/secrets/a", task(s{"a", "/run/secrets/a"}, nil, nil, "")},
		{"two secrets, configs or mounts are at /run/configs/a", task(s{"/run/configs/a"}, s{"a"}, nil, "")},
		{"two secrets, configs or mounts are at /etc/a", task(s{"/etc/a"}, nil, s{"/etc/a"}, "")},
		{"a mount is where secrets", task(s{"a"}, nil, s{"/run/secrets"}, "")},
		{"a mount is where secrets", task(nil, s{""}, s{"/run/configs"}, "")},
		{"/run/secrets has names", task(s{"/run/secrets/a/b"}, nil, nil, "")},
		{"/run/secrets has names", task(s{"/run/secrets"}, nil, nil, "")},
		{"/run/secrets has names", task(s{"../../etc/passwd"}, nil, nil, "")},
		{"/run/configs has names", task(s{"/run/configs/..data"}, nil, nil, "")},
		{"/run/redoubt/spiffe belongs", task(s{"/run/redoubt/spiffe/agent.sock"}, nil, nil, "")},
		{"/etc/a/b/c lies below /etc/a, which is a file", task(s{"/etc/a"}, s{"/etc/a/b/c"}, nil, "")},
		{"mount target /etc/a/b lies below /etc/a", task(s{"/etc/a"}, nil, s{"/etc/a/b"}, "")},
		{"mount target /run/secrets/a/b lies below /run/secrets/a", task(s{"a"}, nil, s{"/run/secrets/a/b"}, "")},
		{"/run/secrets belongs to the node", task(nil, nil, nil, "/run/secrets/id")},
		{"/run/redoubt/spiffe belongs to the node", task(nil, nil, nil, "/run/redoubt")},
		{"mount target /certs is where", task(nil, nil, s{"/certs"}, "/certs")},
		{"mount target /certs/ca is where", task(nil, nil, s{"/certs/ca"}, "/certs")},
		{"the secret or config at /certs and", task(s{"/certs"}, nil, nil, "/certs")},
		{"the secret or config at /certs/tls.key and", task(s{"/certs/tls.key"}, nil, nil, "/certs")},
		{"the secret or config at /certs and", task(nil, s{"/certs"}, nil, "/certs/id")},
	} {
		if err := places.Check(bad.task); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%v, want %q", err, bad.want)
		}
	}
}
