package cli

import (
	"crypto/ed25519"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/contexts"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/lock"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// TestSignWhatWasAsked: a manager that would store something else gets no signature.
func TestSignWhatWasAsked(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	byID := ident.New()
	asked := &schedulerpb.ServiceSpec{Name: "web", Task: &taskpb.TaskSpec{
		Container: &taskpb.ContainerSpec{Image: "web@" + digest, RegistryAuth: "hub",
			Secrets: []*taskpb.FileUse{{Source: "token"}, {Source: byID, Target: "x"}, {Source: byID}}, Configs: []*taskpb.FileUse{{Source: "conf", Target: "/etc/conf"}}},
		Networks: []*taskpb.NetworkUse{{Network: "front"}, {Network: byID}},
		Ports:    []*taskpb.Port{{Target: 80}},
	}}
	planned := spec.Normalize(asked)
	c := planned.Task.Container
	c.Digest, c.RegistryAuth = digest, ident.New()
	c.Secrets[0].Source, c.Secrets[0].Target, c.Secrets[2].Target = ident.New(), "token", "what-it-is-called"
	c.Configs[0].Source = ident.New()
	planned.Task.Networks[0].Network, planned.Task.Ports[0].Published = ident.New(), 30000
	planned.Task.Platforms = []string{"linux/amd64"}
	if err := sameBut(asked, planned); err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]func(*schedulerpb.ServiceSpec, *taskpb.ContainerSpec){
		"name":        func(s *schedulerpb.ServiceSpec, _ *taskpb.ContainerSpec) { s.Name = "db" },
		"command":     func(_ *schedulerpb.ServiceSpec, c *taskpb.ContainerSpec) { c.Command = []string{"sh"} },
		"environment": func(_ *schedulerpb.ServiceSpec, c *taskpb.ContainerSpec) { c.Env = []string{"A=b"} },
		"digest": func(_ *schedulerpb.ServiceSpec, c *taskpb.ContainerSpec) {
			c.Digest = "sha256:" + strings.Repeat("b", 64)
		},
		"image": func(_ *schedulerpb.ServiceSpec, c *taskpb.ContainerSpec) { c.Image = "evil@" + digest },
		"one more secret": func(_ *schedulerpb.ServiceSpec, c *taskpb.ContainerSpec) {
			c.Secrets = append(c.Secrets, &taskpb.FileUse{Source: "x"})
		},
		"no secret":          func(_ *schedulerpb.ServiceSpec, c *taskpb.ContainerSpec) { c.Secrets = c.Secrets[1:] },
		"secret by id":       func(_ *schedulerpb.ServiceSpec, c *taskpb.ContainerSpec) { c.Secrets[1].Source = ident.New() },
		"place of a secret":  func(_ *schedulerpb.ServiceSpec, c *taskpb.ContainerSpec) { c.Secrets[0].Target = "/bin/sh" },
		"place of another":   func(_ *schedulerpb.ServiceSpec, c *taskpb.ContainerSpec) { c.Secrets[1].Target = "/bin/sh" },
		"place of one by id": func(_ *schedulerpb.ServiceSpec, c *taskpb.ContainerSpec) { c.Secrets[2].Target = "/bin/sh" },
		"place of one whose id its name begins": func(_ *schedulerpb.ServiceSpec, c *taskpb.ContainerSpec) {
			c.Secrets[0].Source, c.Secrets[0].Target = "token"+c.Secrets[0].Source[5:], "/bin/sh"
		},
		"owner of a secret":  func(_ *schedulerpb.ServiceSpec, c *taskpb.ContainerSpec) { c.Secrets[0].Uid = 7 },
		"version of another": func(_ *schedulerpb.ServiceSpec, c *taskpb.ContainerSpec) { c.Configs[0].Version = 1 },
		"no credential":      func(_ *schedulerpb.ServiceSpec, c *taskpb.ContainerSpec) { c.RegistryAuth = "" },
		"network by id":      func(s *schedulerpb.ServiceSpec, _ *taskpb.ContainerSpec) { s.Task.Networks[1].Network = ident.New() },
		"alias":              func(s *schedulerpb.ServiceSpec, _ *taskpb.ContainerSpec) { s.Task.Networks[0].Aliases = []string{"db"} },
		"port":               func(s *schedulerpb.ServiceSpec, _ *taskpb.ContainerSpec) { s.Task.Ports[0].Target = 22 },
		"replicas":           func(s *schedulerpb.ServiceSpec, _ *taskpb.ContainerSpec) { s.GetReplicated().Replicas = 9 },
		"mode": func(s *schedulerpb.ServiceSpec, _ *taskpb.ContainerSpec) {
			s.Mode = &schedulerpb.ServiceSpec_Global{Global: &schedulerpb.Global{}}
		},
		"nothing": func(s *schedulerpb.ServiceSpec, _ *taskpb.ContainerSpec) { proto.Reset(s) },
	} {
		other := proto.CloneOf(planned)
		f(other, other.Task.Container)
		if err := sameBut(asked, other); err == nil {
			t.Errorf("another %s would be signed", what)
		}
	}
	if err := sameBut(asked, nil); err == nil {
		t.Error("nothing would be signed")
	}
}

// TestFilesThatWereAsked: what a manager finds for a name or an id is called so, and is
// where a container has what nobody gave another place.
func TestFilesThatWereAsked(t *testing.T) {
	id := "token" + ident.New()[5:]
	for _, c := range []struct {
		what              string
		asked, is         *taskpb.FileUse
		name              string
		good, goodIfFound bool
	}{
		{"by its name", &taskpb.FileUse{Source: "token"}, &taskpb.FileUse{Source: id, Target: "token"}, "token", true, true},
		{"by its id", &taskpb.FileUse{Source: id}, &taskpb.FileUse{Source: id, Target: "token"}, "token", true, true},
		{"in a place", &taskpb.FileUse{Source: "token", Target: "/a"}, &taskpb.FileUse{Source: id, Target: "/a"}, "token", true, true},
		{"another one", &taskpb.FileUse{Source: "token"}, &taskpb.FileUse{Source: ident.New(), Target: "root"}, "root", false, false},
		{"another one, whose id the name begins", &taskpb.FileUse{Source: "token", Target: "/a"}, &taskpb.FileUse{Source: id, Target: "/a"}, "root", false, false},
		{"by its id, in another place", &taskpb.FileUse{Source: id}, &taskpb.FileUse{Source: id, Target: "sh"}, "token", false, true},
		{"by its id, with a path for a name", &taskpb.FileUse{Source: id}, &taskpb.FileUse{Source: id, Target: "/bin/sh"}, "/bin/sh", true, false},
		{"by a name, with no id", &taskpb.FileUse{Source: "token"}, &taskpb.FileUse{Source: "token", Target: "token"}, "token", true, false},
	} {
		if err := askedFor("secret", c.asked, c.is, c.name); (err == nil) != c.good {
			t.Errorf("%s: %v", c.what, err)
		}
		got, err := found("secret", c.asked.Source, c.is.Source, c.name, true)
		if (err == nil) != c.goodIfFound || err == nil && got != (named{c.is.Source, c.name}) {
			t.Errorf("%s: found %v, %v", c.what, got, err)
		}
	}
	if _, err := found("secret", id[:8], id, "token", false); err != nil {
		t.Errorf("the beginning of an id, which nobody signs: %v", err)
	}
	if _, err := found("secret", "token", "", "", false); err == nil {
		t.Error("nothing was found")
	}
}

// TestServiceThatWasAsked: a change of one service is signed for no other, though that
// one is signed as well.
func TestServiceThatWasAsked(t *testing.T) {
	key := lock.NewSigner()
	c, err := lock.New(ident.New(), 1, []*lockpb.Key{lock.PublicKey(key.Public().(ed25519.PublicKey))})
	if err != nil {
		t.Fatal(err)
	}
	if c, err = c.Sign(key); err != nil {
		t.Fatal(err)
	}
	s := &signer{flags: &signFlags{asIs: true}, chain: c, key: key, now: time.Now, memory: contexts.Deployers{Dir: filepath.Join(t.TempDir(), "lock")}}
	db := &schedulerpb.ServiceSpec{Name: "db", Task: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: "web@sha256:" + strings.Repeat("a", 64)}}}
	for _, name := range []string{"web", "", ident.New()} {
		req := &controlpb.UpdateServiceRequest{Spec: proto.CloneOf(db)}
		if err := s.update(t.Context(), nil, name, req, db, nil); err == nil || !strings.Contains(err.Error(), "the managers have db in its place") || req.Signed != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestBaseIsSigned: a change goes on from what deployers signed, not from what a
// manager says is there.
func TestBaseIsSigned(t *testing.T) {
	key := lock.NewSigner()
	c, err := lock.New(ident.New(), 1, []*lockpb.Key{lock.PublicKey(key.Public().(ed25519.PublicKey))})
	if err != nil {
		t.Fatal(err)
	}
	if c, err = c.Sign(key); err != nil {
		t.Fatal(err)
	}
	sp := spec.Normalize(&schedulerpb.ServiceSpec{Name: "web", Task: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: "web"}}})
	signed, err := lock.Sign(c, &lockpb.Statement{Service: "web", Serial: 5, MaxReplicas: 1, Task: sp.Task}, key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := proto.Marshal(signed)
	if err != nil {
		t.Fatal(err)
	}
	s := &signer{flags: &signFlags{}, chain: c, key: key, now: time.Now, memory: contexts.Deployers{Dir: filepath.Join(t.TempDir(), "lock")}}
	if st, err := s.base(sp, b); err != nil || st.GetSerial() != 5 {
		t.Error(st, err)
	}
	for _, bad := range [][]byte{nil, {}, b[:len(b)-9], {0xff}} {
		if _, err := s.base(sp, bad); err == nil {
			t.Errorf("%d bytes are a signature", len(bad))
		}
	}
	other := proto.CloneOf(sp)
	other.Task.Container.Command = []string{"sh"}
	if _, err := s.base(other, b); err == nil {
		t.Error("what a manager changed would be signed")
	}
	more := proto.CloneOf(sp)
	more.GetReplicated().Replicas = 2
	if _, err := s.base(more, b); err == nil {
		t.Error("more replicas than were signed would be signed")
	}
	s.flags.replicas = replicas{set: true, n: 2}
	if _, err := s.base(more, b); err != nil {
		t.Errorf("as many as the deployer says: %v", err)
	}
	if err := s.memory.RememberSigned(t.Context(), c.Head().GetClusterId(), "web", 6); err != nil {
		t.Fatal(err)
	}
	if _, err := s.base(sp, b); err == nil || !strings.Contains(err.Error(), "1970-01-01") {
		t.Errorf("what deployers left behind is gone on from: %v", err)
	}
}
