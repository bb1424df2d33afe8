package stack

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

// ours are the labels of stack shop.
func ours() map[string]string { return map[string]string{Label: "shop"} }

func shop() *Stack {
	use := func(name string) *taskpb.FileUse { return &taskpb.FileUse{Source: name} }
	return &Stack{
		Name:     "shop",
		Networks: []*meshpb.NetworkSpec{{Name: "shop_back", Labels: ours(), DefaultDeny: true}},
		Volumes:  []*taskpb.VolumeSpec{{Name: "shop_data", Driver: "local", Labels: ours(), Options: map[string]string{"size": "1GiB"}}},
		Secrets:  []Secret{{&secretspb.SecretSpec{Name: "shop_tok", Labels: ours(), Kind: secretspb.SecretKind_SECRET_KIND_FILE}, []byte("abc")}},
		Configs:  []*secretspb.ConfigSpec{{Name: "shop_site", Labels: ours(), Data: []byte("hello")}},
		Policies: []*meshpb.PolicySpec{{Name: "shop_p", Labels: ours(), Network: "shop_back", Rules: []*meshpb.PolicyRule{{FromService: "shop_web", ToService: "shop_web"}}}},
		Services: []*schedulerpb.ServiceSpec{{Name: "shop_web", Labels: ours(), Task: &taskpb.TaskSpec{
			Container: &taskpb.ContainerSpec{Image: "web:1", Secrets: []*taskpb.FileUse{use("shop_tok")}, Configs: []*taskpb.FileUse{use("shop_site")},
				Mounts: []*taskpb.Mount{{Type: taskpb.Mount_TYPE_VOLUME, Target: "/data", Volume: &taskpb.VolumeUse{Name: "shop_data"}}, {Type: taskpb.Mount_TYPE_VOLUME, Target: "/theirs", Volume: &taskpb.VolumeUse{Name: "theirs"}}}},
			Networks: []*taskpb.NetworkUse{{Network: "shop_back", Aliases: []string{"web"}}, {Network: "public"}},
			Ports:    []*taskpb.Port{{Target: 80}},
		}}},
	}
}

// stored is a cluster that has all of s, as managers would store it, and a network
// public that is nobody's.
func stored(t *testing.T, s *Stack, key FingerprintKey) *Cluster {
	c := &Cluster{Networks: []*meshpb.Network{{Id: ident.New(), Spec: &meshpb.NetworkSpec{Name: "public", Driver: "overlay"}}}}
	for _, n := range s.Networks {
		normal, err := meshspec.Network(n)
		if err != nil {
			t.Fatal(err)
		}
		c.Networks = append(c.Networks, &meshpb.Network{Id: ident.New(), Spec: normal})
	}
	for _, v := range append([]*taskpb.VolumeSpec{{Name: "theirs", Driver: "local"}}, s.Volumes...) {
		c.Volumes = append(c.Volumes, &schedulerpb.Volume{Id: ident.New(), Spec: v})
	}
	for _, x := range s.Secrets {
		o := &secretspb.Secret{Id: ident.New(), Spec: x.Spec, Current: 1}
		o.Versions = []*secretspb.VersionFacts{{Number: 1, Id: key.Version(o.Id, x.Data)}}
		c.Secrets = append(c.Secrets, o)
	}
	for _, x := range s.Configs {
		c.Configs = append(c.Configs, &secretspb.Config{Id: ident.New(), Spec: x, Current: 1})
	}
	for _, p := range s.Policies {
		p = proto.CloneOf(p)
		n, _ := byName(c.Networks, p.Network)
		p.Network = n.GetId()
		c.Policies = append(c.Policies, &meshpb.Policy{Id: ident.New(), Spec: p})
	}
	for _, x := range s.Services {
		sp := c.asStored(x, &schedulerpb.ServiceSpec{})
		sp.Task.Container.Digest, sp.Task.Ports[0].Published, sp.Task.Force = "sha256:x", 30000, 2
		c.Services = append(c.Services, &schedulerpb.Service{Id: ident.New(), Spec: sp})
	}
	return c
}

func steps(p *Plan) string {
	var out []string
	for _, s := range p.Steps {
		if s.Action != Keep {
			out = append(out, fmt.Sprintf("%s %s %s", s.Action, s.Kind, s.Name))
		}
	}
	return strings.Join(out, ", ")
}

func TestPlan(t *testing.T) {
	key := NewFingerprintKey()
	for _, c := range []struct {
		name   string
		change func(*Stack, *Cluster)
		prune  bool
		want   string // steps, or "!" and the error
	}{
		{name: "all is there", change: func(*Stack, *Cluster) {}},
		{"nothing is there", func(_ *Stack, c *Cluster) { *c = Cluster{Networks: c.Networks[:1], Volumes: c.Volumes[:1]} }, false,
			"create network shop_back, create volume shop_data, create secret shop_tok, create config shop_site, create policy shop_p, create service shop_web"},
		{"an image", func(s *Stack, _ *Cluster) { s.Services[0].Task.Container.Image = "web:2" }, false, "update service shop_web"},
		{"replicas", func(s *Stack, _ *Cluster) {
			s.Services[0].Mode = &schedulerpb.ServiceSpec_Replicated{Replicated: &schedulerpb.Replicated{Replicas: 3}}
		}, false, "update service shop_web"},
		{"somebody scaled it", func(_ *Stack, c *Cluster) {
			c.Services[0].Spec.Mode = &schedulerpb.ServiceSpec_Replicated{Replicated: &schedulerpb.Replicated{Replicas: 9}}
		}, false, "update service shop_web"},
		{"a secret", func(s *Stack, _ *Cluster) { s.Secrets[0].Data = []byte("abd") }, false, "update secret shop_tok"},
		{"a config", func(s *Stack, _ *Cluster) {
			s.Configs[0] = proto.CloneOf(s.Configs[0])
			s.Configs[0].Data = []byte("hello!")
		}, false, "update config shop_site"},
		{"a rule", func(s *Stack, _ *Cluster) { s.Policies[0].Rules[0].FirstPort = 1 }, false, "replace policy shop_p"},
		{"less", func(s *Stack, _ *Cluster) { s.Services, s.Policies = nil, nil }, false, "leave service shop_web, leave policy shop_p"},
		{"less, pruned", func(s *Stack, _ *Cluster) { s.Services, s.Policies = nil, nil }, true, "remove service shop_web, remove policy shop_p"},
		{"another network", func(s *Stack, _ *Cluster) { s.Networks[0].Internal = true }, false, "!network shop_back is there and otherwise (internal: "},
		{"another volume", func(s *Stack, _ *Cluster) { s.Volumes[0].Options = nil }, false, "!volume shop_data is there and otherwise (options["},
		{"a volume of nobody", func(_ *Stack, c *Cluster) { c.Volumes[1].Spec.Labels = nil }, false, "!volume shop_data is there already and not of this stack: say that it is external"},
		{"a volume that goes", func(_ *Stack, c *Cluster) { c.Volumes[1].RemovingSince = 1 }, false, "!volume shop_data is being removed"},
		{"a volume that is nowhere", func(_ *Stack, c *Cluster) { c.Volumes = c.Volumes[1:] }, false, "!service shop_web: there is no volume theirs: make it first (redoubt volume create)"},
		{"less volumes, pruned", func(s *Stack, _ *Cluster) {
			s.Volumes, s.Services[0].Task.Container.Mounts = nil, s.Services[0].Task.Container.Mounts[1:]
		}, true, "update service shop_web"},
		{"another label", func(s *Stack, _ *Cluster) {
			s.Secrets[0].Spec = proto.CloneOf(s.Secrets[0].Spec)
			s.Secrets[0].Spec.Labels["a"] = "b"
		}, false, "!secret shop_tok is there and otherwise (labels["},
		{"a service of nobody", func(_ *Stack, c *Cluster) { c.Services[0].Spec.Labels = nil }, false, "!service shop_web is there already and of no stack"},
		{"a service of another stack", func(_ *Stack, c *Cluster) { c.Services[0].Spec.Labels = map[string]string{Label: "shop_web"} }, false,
			"!service shop_web is of stack shop_web: give this stack another name"},
		{"a network that is nowhere", func(_ *Stack, c *Cluster) { c.Networks = c.Networks[1:] }, false, "!service shop_web: there is no network public"},
		{"all that is wrong", func(_ *Stack, c *Cluster) { c.Services[0].Spec.Labels, c.Networks = nil, c.Networks[1:] }, false, "is of no stack"},
	} {
		s := shop()
		have := stored(t, shop(), key)
		c.change(s, have)
		p, err := Make(s, have, Options{Prune: c.prune, Key: key})
		if want, refused := strings.CutPrefix(c.want, "!"); refused {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v; want %s", c.name, err, want)
			}
			continue
		}
		if c.name == "all that is wrong" {
			if n := strings.Count(err.Error(), "\n"); n != 1 {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := steps(p); got != c.want {
			t.Errorf("%s: %s; want %s", c.name, got, c.want)
		}
		if p.Changes() != (c.want != "" && !strings.HasPrefix(c.want, "leave")) {
			t.Errorf("%s: changes is %t", c.name, p.Changes())
		}
	}
}

// TestSignedForConfigs: where services are signed, one whose config gets other data is
// signed again, for that.
func TestSignedForConfigs(t *testing.T) {
	key := NewFingerprintKey()
	s := shop()
	have := stored(t, shop(), key)
	s.Configs[0].Data = []byte("hello!")
	for sign, want := range map[bool]string{false: "update config shop_site", true: "update config shop_site, update service shop_web"} {
		p, err := Make(s, have, Options{Key: key, Sign: sign})
		if err != nil || steps(p) != want {
			t.Errorf("signed %t: %s, %v; want %s", sign, steps(p), err, want)
		}
	}
}

// TestFormerVersion: what a secret held before, and holds again, is the version of then.
func TestFormerVersion(t *testing.T) {
	key := NewFingerprintKey()
	s := shop()
	have := stored(t, s, key)
	o := have.Secrets[0]
	o.Versions = append(o.Versions, &secretspb.VersionFacts{Number: 2, Id: key.Version(o.Id, []byte("abd"))})
	o.Current = 2
	p, err := Make(s, have, Options{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range p.Steps {
		if step.Kind == KindSecret && (step.Action != Update || step.version != 1 || step.was != 2) {
			t.Errorf("%+v", step)
		}
	}
}

// TestFingerprint: an id tells the data of one secret, under one key, and nothing else.
func TestFingerprint(t *testing.T) {
	a, b := NewFingerprintKey(), NewFingerprintKey()
	id, other := ident.New(), ident.New()
	want := a.Version(id, []byte("x"))
	if !ident.Valid(want) || a.Version(id, []byte("x")) != want {
		t.Errorf("%s is no id, or another one the next time", want)
	}
	for _, got := range []string{a.Version(id, []byte("y")), a.Version(other, []byte("x")), b.Version(id, []byte("x")), a.Version(id, nil)} {
		if got == want {
			t.Errorf("%s stands for two things", got)
		}
	}
}
