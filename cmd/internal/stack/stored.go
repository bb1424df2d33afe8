package stack

import (
	"cmp"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// asStored is want as managers would store it in the place of have: with its
// defaults, ids for names, and what have has that nobody asks for by a file: the
// digest of an image that is named as before, ports that the cluster chose, and how
// often its tasks were replaced for nothing. What it names and is not there keeps
// its name, so that it is told from what is stored.
func (c *Cluster) asStored(want, have *schedulerpb.ServiceSpec) *schedulerpb.ServiceSpec {
	out := spec.Normalize(want)
	t, was := out.GetTask(), have.GetTask()
	for _, u := range t.GetNetworks() {
		if n, ok := byName(c.Networks, u.GetNetwork()); ok {
			u.Network = n.GetId()
		}
	}
	secret := func(name string) string {
		s, _ := byName(c.Secrets, name)
		return cmp.Or(s.GetId(), name)
	}
	config := func(name string) string {
		s, _ := byName(c.Configs, name)
		return cmp.Or(s.GetId(), name)
	}
	files := func(uses []*taskpb.FileUse, id func(string) string) {
		for _, u := range uses {
			u.Target = cmp.Or(u.GetTarget(), u.GetSource())
			u.Source = id(u.GetSource())
		}
	}
	files(t.GetContainer().GetSecrets(), secret)
	files(t.GetContainer().GetConfigs(), config)
	if auth := t.GetContainer().GetRegistryAuth(); auth != "" {
		t.Container.RegistryAuth = secret(auth)
	}
	if t.GetContainer().GetImage() == was.GetContainer().GetImage() {
		t.Container.Digest, t.Platforms = was.GetContainer().GetDigest(), was.GetPlatforms()
	}
	for _, p := range t.GetPorts() {
		if p.GetPublished() == 0 {
			p.Published = chosen(p, was.GetPorts())
		}
	}
	t.Force = was.GetForce()
	return out
}

// chosen is the number that the cluster chose for a port like p; 0: none.
func chosen(p *taskpb.Port, had []*taskpb.Port) uint32 {
	for _, q := range had {
		like := proto.CloneOf(q)
		like.Published = 0
		if proto.Equal(p, like) {
			return q.GetPublished()
		}
	}
	return 0
}
