package dispatcher

import (
	"cmp"
	"strings"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

// versions are those that the secrets and configs of a task mean now, in the order
// of its specification. One that is not there has no id: the node hears why when it
// asks for it.
func versions(r raftstore.Reader, s *taskpb.TaskSpec) (out []*taskpb.FileVersion) {
	for _, u := range s.GetContainer().GetSecrets() {
		v := &taskpb.FileVersion{ObjectId: u.GetSource()}
		if o, ok := secretstore.Secrets.Get(r, u.GetSource()); ok {
			v.VersionId = numbered(o.GetVersions(), cmp.Or(u.GetVersion(), o.GetCurrent())).GetId()
		}
		out = append(out, v)
	}
	for _, u := range s.GetContainer().GetConfigs() {
		v := &taskpb.FileVersion{ObjectId: u.GetSource()}
		if o, ok := secretstore.Configs.Get(r, u.GetSource()); ok {
			v.VersionId = configVersion(o, u.GetVersion())
		}
		out = append(out, v)
	}
	return out
}

// configVersion is the id of the version of a config with that number, 0 for the
// current one. A config of store level 2 says nothing of its only one.
func configVersion(c *secretspb.Config, number uint64) string {
	if len(c.GetVersions()) == 0 {
		if number <= 1 {
			return c.GetId()
		}
		return ""
	}
	return numbered(c.GetVersions(), cmp.Or(number, c.GetCurrent())).GetId()
}

// numbered is nil where there is none of that number.
func numbered(list []*secretspb.VersionFacts, number uint64) *secretspb.VersionFacts {
	for _, v := range list {
		if v.GetNumber() == number {
			return v
		}
	}
	return nil
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

// users adds, by node, the tasks that may have other versions as one of the files
// changed. Updates are rare: it goes through all specifications that tasks are made of.
func (d *Dispatcher) users(files map[string]bool, tasks map[string][]string) error {
	if len(files) == 0 {
		return nil
	}
	return d.config.Store.View(func(r *raftstore.ReadTx) error {
		services := map[string]bool{}
		for rev := range store.Revisions.All(r) {
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
