package control

import (
	"cmp"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

// maxKnown bounds the secrets that an answer names; of the others it has the number.
const maxKnown = 200

// servicesOn names the services that have tasks on that node.
func servicesOn(r raftstore.Reader, nodeID string) (names []string) {
	seen := map[string]bool{}
	for t := range schedstore.Tasks.By(r, "node", nodeID) {
		svc, ok := schedstore.Services.Get(r, t.GetServiceId())
		if ok && !seen[svc.GetId()] {
			seen[svc.GetId()] = true
			names = append(names, svc.GetSpec().GetName())
		}
	}
	slices.Sort(names)
	return names
}

// knownToManager are all versions of all secrets that were there at that time: its
// keyset opens each of them.
func knownToManager(r raftstore.Reader, at time.Time) *controlpb.KnownSecrets {
	known := map[string]*controlpb.KnownSecret{}
	for s := range secretstore.Secrets.All(r) {
		for _, v := range s.GetVersions() {
			if v.GetCreatedAt() <= at.UnixNano() {
				addKnown(known, s, v.GetNumber())
			}
		}
	}
	return bounded(known)
}

// knownToWorker are those that the tasks on that node were granted, also tasks that
// ended. Who is granted no version by its number could read each in its time: what was
// current then is on no record.
func knownToWorker(r raftstore.Reader, nodeID string) *controlpb.KnownSecrets {
	known := map[string]*controlpb.KnownSecret{}
	for t := range schedstore.Tasks.By(r, "node", nodeID) {
		rev, _ := schedstore.Revisions.Get(r, schedstore.RevisionID(t.GetServiceId(), t.GetRevision()))
		c := rev.GetSpec().GetContainer()
		for _, u := range c.GetSecrets() {
			if s, ok := secretstore.Secrets.Get(r, u.GetSource()); ok {
				addKnown(known, s, u.GetVersion())
			}
		}
		if s, ok := secretstore.Secrets.Get(r, c.GetRegistryAuth()); ok {
			addKnown(known, s, 0)
		}
	}
	return bounded(known)
}

// addKnown adds the version of that number, or for 0 all that there are.
func addKnown(known map[string]*controlpb.KnownSecret, s *secretspb.Secret, number uint64) {
	k := known[s.GetId()]
	if k == nil {
		k = &controlpb.KnownSecret{Id: s.GetId(), Name: s.GetSpec().GetName()}
		known[s.GetId()] = k
	}
	for _, v := range s.GetVersions() {
		if n := v.GetNumber(); (number == 0 || n == number) && !slices.Contains(k.Versions, n) {
			k.Versions = append(k.Versions, n)
		}
	}
	slices.Sort(k.Versions)
}

func bounded(known map[string]*controlpb.KnownSecret) *controlpb.KnownSecrets {
	out := &controlpb.KnownSecrets{}
	for _, k := range known {
		out.Secrets = append(out.Secrets, k)
	}
	slices.SortFunc(out.Secrets, func(a, b *controlpb.KnownSecret) int { return cmp.Compare(a.Name, b.Name) })
	if n := len(out.Secrets); n > maxKnown {
		out.Secrets, out.More = out.Secrets[:maxKnown], uint32(n-maxKnown)
	}
	return out
}
