package store

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

// grant returns a service's spec with its secrets and configs by id: to store it is
// to grant them.
func grant(tx *raftstore.Tx, sp *schedulerpb.ServiceSpec) (*schedulerpb.ServiceSpec, error) {
	c := sp.GetTask().GetContainer()
	if len(c.GetSecrets())+len(c.GetConfigs()) == 0 && c.GetRegistryAuth() == "" {
		return sp, nil
	}
	sp = proto.CloneOf(sp)
	c = sp.Task.Container
	touched := map[string]bool{}
	secret := func(ref string, kind secretspb.SecretKind) (*secretspb.Secret, error) {
		s, err := secretstore.ResolveSecret(tx, ref)
		if err != nil {
			return nil, err
		}
		if s.GetSpec().GetKind() != kind {
			if kind == secretspb.SecretKind_SECRET_KIND_REGISTRY {
				return nil, refuse("secret %s is a file for containers, not what a registry is shown: make one with `redoubt secret create --registry HOST --username USER`", s.GetSpec().GetName())
			}
			return nil, refuse("secret %s is for a registry of images: no container gets it", s.GetSpec().GetName())
		}
		if !touched[s.GetId()] {
			touched[s.GetId()] = true
			err = secretstore.TouchSecret(tx, s)
		}
		return s, err
	}
	for _, u := range c.Secrets {
		s, err := secret(u.Source, secretspb.SecretKind_SECRET_KIND_FILE)
		if err != nil {
			return nil, err
		}
		if _, ok := secretstore.SecretVersionOf(tx, s, u.Version); !ok {
			return nil, refuse("secret %s has no version %d: see `redoubt secret inspect %s`", s.GetSpec().GetName(), u.Version, s.GetSpec().GetName())
		}
		u.Source, u.Target = s.GetId(), cmp.Or(u.Target, s.GetSpec().GetName())
	}
	for _, u := range c.Configs {
		o, err := secretstore.ResolveConfig(tx, u.Source)
		if err != nil {
			return nil, err
		}
		if _, _, ok := secretstore.ConfigVersionOf(tx, o, u.Version); !ok {
			return nil, refuse("config %s has no version %d: see `redoubt config inspect %s`", o.GetSpec().GetName(), u.Version, o.GetSpec().GetName())
		}
		if !touched[o.GetId()] {
			touched[o.GetId()] = true
			if err := secretstore.TouchConfig(tx, o); err != nil {
				return nil, err
			}
		}
		u.Source, u.Target = o.GetId(), cmp.Or(u.Target, o.GetSpec().GetName())
	}
	if c.RegistryAuth != "" {
		s, err := secret(c.RegistryAuth, secretspb.SecretKind_SECRET_KIND_REGISTRY)
		if err != nil {
			return nil, err
		}
		c.RegistryAuth = s.GetId()
	}
	if err := spec.CheckPlaces(sp.Task); err != nil {
		return nil, refuse("%v", err)
	}
	return sp, nil
}

// UsesOf are how a container of that specification uses a secret or a config.
func UsesOf(c *taskpb.ContainerSpec, id string) (out []*taskpb.FileUse) {
	for _, u := range append(c.GetSecrets()[:len(c.GetSecrets()):len(c.GetSecrets())], c.GetConfigs()...) {
		if u.GetSource() == id {
			out = append(out, u)
		}
	}
	if c.GetRegistryAuth() == id {
		out = append(out, &taskpb.FileUse{Source: id})
	}
	return out
}

// FileUser is a service that may read a secret or a config, and the tasks of it
// that may.
type FileUser struct {
	ServiceID string
	// Service is nil where it was removed.
	Service *schedulerpb.Service
	// Uses are those of its specification; none: only tasks of before have it.
	Uses []*taskpb.FileUse
	// Former are uses by tasks of earlier revisions, but for those that are also the
	// specification's, each once.
	Former []*taskpb.FileUse
	// Tasks may have a container now, or will.
	Tasks []*schedulerpb.Task
}

// UsersOfFile are all who may read a secret or config, ascending by service id.
func UsersOfFile(r raftstore.Reader, id string) (out []*FileUser) {
	byService := map[string]*FileUser{}
	of := func(service string) *FileUser {
		u := byService[service]
		if u == nil {
			u = &FileUser{ServiceID: service}
			u.Service, _ = Services.Get(r, service)
			byService[service] = u
		}
		return u
	}
	for s := range Services.All(r) {
		if uses := UsesOf(s.GetSpec().GetTask().GetContainer(), id); len(uses) > 0 {
			of(s.GetId()).Uses = uses
		}
	}
	for rev := range Revisions.All(r) {
		uses := UsesOf(rev.GetSpec().GetContainer(), id)
		if len(uses) == 0 {
			continue
		}
		for t := range OfService(r, rev.GetServiceId()) {
			if RevisionID(t.GetServiceId(), t.GetRevision()) != rev.GetId() || !Live(t) {
				continue
			}
			u := of(rev.GetServiceId())
			u.Tasks = append(u.Tasks, t)
			for _, use := range uses {
				same := func(o *taskpb.FileUse) bool { return proto.Equal(o, use) }
				if !slices.ContainsFunc(u.Uses, same) && !slices.ContainsFunc(u.Former, same) {
					u.Former = append(u.Former, use)
				}
			}
		}
	}
	for _, u := range byService {
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b *FileUser) int { return cmp.Compare(a.ServiceID, b.ServiceID) })
	return out
}

// LostWith are tasks which had a secret or config when their node was lost, and may
// have it still: nobody has heard of the node since. They keep nobody from anything.
func LostWith(r raftstore.Reader, id string) (out []*schedulerpb.Task) {
	for t := range Tasks.All(r) {
		if State(t) != Orphaned || !slices.ContainsFunc(t.GetStatus().GetFiles(), func(f *taskpb.FileVersion) bool { return f.GetObjectId() == id }) {
			continue
		}
		if n, ok := Nodes.Get(r, t.GetNodeId()); !ok || !Up(n) {
			out = append(out, t)
		}
	}
	return out
}

// PinnedBy tells which versions of a secret or config somebody uses by number.
func PinnedBy(r raftstore.Reader, id string) secretstore.Pinned {
	numbers := map[uint64]bool{}
	for _, user := range UsersOfFile(r, id) {
		for _, u := range append(user.Uses, user.Former...) {
			numbers[u.GetVersion()] = true
		}
	}
	return func(n uint64) bool { return numbers[n] }
}

// unused refuses where somebody may read a secret or config.
func unused(tx *raftstore.Tx, what, id string) error {
	for _, u := range UsersOfFile(tx, id) {
		switch {
		case len(u.Uses) > 0:
			return refuse("%s is in use by service %s: remove the service or take it from the service first", what, u.Service.GetSpec().GetName())
		default:
			return refuse("task %s still has %s, and is stopping: try again when it has", u.Tasks[0].GetId(), what)
		}
	}
	return nil
}

// RemoveSecret deletes the secret that ref stands for, and returns its id. It is
// refused while a service or a task uses it.
func RemoveSecret(tx *raftstore.Tx, ref string) (id string, err error) {
	s, err := secretstore.ResolveSecret(tx, ref)
	if err != nil {
		return "", err
	}
	if err := unused(tx, "secret "+s.GetSpec().GetName(), s.GetId()); err != nil {
		return "", err
	}
	return s.GetId(), secretstore.RemoveSecret(tx, s)
}

// RemoveConfig is RemoveSecret for a config, of that version unless it is 0.
func RemoveConfig(tx *raftstore.Tx, ref string, version uint64) (id string, err error) {
	c, err := secretstore.ResolveConfig(tx, ref)
	if err != nil {
		return "", err
	}
	if err := unused(tx, "config "+c.GetSpec().GetName(), c.GetId()); err != nil {
		return "", err
	}
	return c.GetId(), secretstore.RemoveConfig(tx, c, version)
}

// RestartUsers has the tasks of services replaced that want that when a secret or
// config changes. It returns the names of these services.
func RestartUsers(tx *raftstore.Tx, id string) (names []string, err error) {
	restarts := func(u *taskpb.FileUse) bool {
		return u.GetVersion() == 0 && u.GetOnUpdate() == taskpb.OnUpdate_ON_UPDATE_RESTART
	}
	for _, user := range UsersOfFile(tx, id) {
		if user.Service == nil || !slices.ContainsFunc(user.Uses, restarts) {
			continue
		}
		sp := proto.CloneOf(user.Service.GetSpec())
		sp.Task.Force++
		how := succession{signing: Signing{Signed: user.Service.GetSigned()}, restart: true}
		if err := succeed(tx, user.Service, sp, proto.CloneOf(user.Service), how); err != nil {
			return nil, err
		}
		names = append(names, sp.GetName())
	}
	slices.Sort(names)
	return names, nil
}
