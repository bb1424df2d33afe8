package dispatcher

import (
	"cmp"
	"strings"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

// versions are those that the secrets and configs of a task mean now, in the order
// of its specification. One that is not there has no id: the node hears why when it
// asks for it.
func versions(r raftstore.Reader, s *taskpb.TaskSpec) (out []*taskpb.FileVersion) {
	for _, u := range s.GetContainer().GetSecrets() {
		v := &taskpb.FileVersion{ObjectId: u.GetSource()}
		if o, ok := secretstore.Secrets.Get(r, u.GetSource()); ok {
			now, _ := secretstore.SecretVersionOf(r, o, u.GetVersion())
			v.VersionId = now.GetId()
		}
		out = append(out, v)
	}
	for _, u := range s.GetContainer().GetConfigs() {
		v := &taskpb.FileVersion{ObjectId: u.GetSource()}
		if o, ok := secretstore.Configs.Get(r, u.GetSource()); ok {
			now, _, _ := secretstore.ConfigVersionOf(r, o, u.GetVersion())
			v.VersionId = now.GetId()
		}
		out = append(out, v)
	}
	return out
}

// versionIDs is a text that other versions do not have.
func versionIDs(list []*taskpb.FileVersion) string {
	var b strings.Builder
	for _, v := range list {
		b.WriteString(v.GetVersionId())
		b.WriteByte(' ')
	}
	return b.String()
}

// fileOf is the id of the secret or config that an event is of, or empty.
func fileOf(e raftstore.Event) string {
	if old, now, ok := secretstore.Secrets.Event(e); ok {
		return cmp.Or(now.GetId(), old.GetId())
	}
	if old, now, ok := secretstore.Configs.Event(e); ok {
		return cmp.Or(now.GetId(), old.GetId())
	}
	return ""
}

// users adds, by node, the tasks of services, and those that may have other versions as
// one of the files changed. Updates are rare: it goes through all specifications that
// tasks are made of.
func (d *Dispatcher) users(files, services map[string]bool, tasks map[string][]string) error {
	if len(files)+len(services) == 0 {
		return nil
	}
	return d.config.Store.View(func(r *raftstore.ReadTx) error {
		for rev := range store.Revisions.All(r) {
			if len(files) == 0 {
				break
			}
			c := rev.GetSpec().GetContainer()
			for _, list := range [][]*taskpb.FileUse{c.GetSecrets(), c.GetConfigs()} {
				for _, u := range list {
					if files[u.GetSource()] {
						services[rev.GetServiceId()] = true
					}
				}
			}
		}
		for id := range services {
			for t := range store.OfService(r, id) {
				if t.GetNodeId() != "" && store.Live(t) {
					tasks[t.GetNodeId()] = append(tasks[t.GetNodeId()], t.GetId())
				}
			}
		}
		return nil
	})
}
