package roles

import (
	"cmp"

	"github.com/cedar-policy/cedar-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

// StackLabel is the label that says which stack something is part of.
const StackLabel = spec.StackLabel

// Resource is what a verb is done to. The zero value is the cluster.
type Resource struct {
	// Kind is one of authz.Kinds.
	Kind string
	// ID is its name; of a node, whose name need not be its own, the id.
	ID     string
	Name   string
	Labels map[string]string
}

// String says it in an error.
func (r Resource) String() string {
	if r.Kind == "" {
		return "the cluster"
	}
	return kindWords[r.Kind] + " " + cmp.Or(r.Name, r.ID)
}

var kindWords = map[string]string{
	"Service": "service", "Node": "node", "Config": "config", "Secret": "secret", "Network": "network", "NetworkPolicy": "network policy", "Volume": "volume",
}

// ResourceOf finds what an act is done to. What does not exist has the name that
// the caller wrote and no labels: it is the handler that says that there is no such
// thing, to whoever may do it to anything.
func ResourceOf(r raftstore.Reader, a authz.Act) Resource {
	switch {
	case a.Kind == "":
		return Resource{}
	case a.Spec != nil:
		return planned(a.Kind, a.Spec)
	}
	return found(r, a.Kind, a.Ref)
}

// planned reads name and labels of a spec; authz has seen that it has both.
func planned(kind string, spec proto.Message) Resource {
	m := spec.ProtoReflect()
	fields := m.Descriptor().Fields()
	name := m.Get(fields.ByName("name")).String()
	out := Resource{Kind: kind, ID: name, Name: name, Labels: map[string]string{}}
	m.Get(fields.ByName("labels")).Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		out.Labels[k.String()] = v.String()
		return true
	})
	return out
}

func found(r raftstore.Reader, kind, ref string) Resource {
	var spec interface {
		GetName() string
		GetLabels() map[string]string
	}
	switch kind {
	case "Node":
		return foundNode(r, ref)
	case "Service":
		s, err := schedstore.ResolveService(r, ref)
		if err != nil {
			t, err2 := schedstore.ResolveTask(r, ref) // as logs and explain take
			if err2 != nil {
				break
			}
			s, _ = schedstore.Services.Get(r, t.GetServiceId())
		}
		if s != nil {
			spec = s.GetSpec()
		}
	case "Config":
		if c, err := secretstore.ResolveConfig(r, ref); err == nil {
			spec = c.GetSpec()
		}
	case "Secret":
		if s, err := secretstore.ResolveSecret(r, ref); err == nil {
			spec = s.GetSpec()
		}
	case "Network":
		if n, err := meshstore.ResolveNetwork(r, ref); err == nil {
			spec = n.GetSpec()
		}
	case "Volume":
		if v, err := schedstore.ResolveVolume(r, ref); err == nil {
			spec = v.GetSpec()
		}
	case "NetworkPolicy":
		if p, err := meshstore.ResolvePolicy(r, ref); err == nil {
			spec = p.GetSpec()
		}
	}
	if spec == nil {
		return Resource{Kind: kind, ID: ref, Name: ref}
	}
	return Resource{Kind: kind, ID: spec.GetName(), Name: spec.GetName(), Labels: spec.GetLabels()}
}

func foundNode(r raftstore.Reader, ref string) Resource {
	id := ref
	if n, err := schedstore.ResolveNode(r, ref); err == nil {
		id = n.GetId()
	} else {
		for n := range pkistore.Nodes.By(r, "name", ref) {
			id = n.GetId()
		}
	}
	out := Resource{Kind: "Node", ID: id, Name: ref}
	if n, ok := schedstore.Nodes.Get(r, id); ok {
		out.Labels = n.GetLabels()
	}
	if n, ok := pkistore.Nodes.Get(r, id); ok {
		out.Name = n.GetName()
	}
	return out
}

var clusterUID = cedar.NewEntityUID("Redoubt::Cluster", "cluster")

// uid is the resource's name in policies.
func (r Resource) uid() cedar.EntityUID {
	if r.Kind == "" {
		return clusterUID
	}
	return cedar.NewEntityUID(kindTypes[r.Kind], cedar.String(r.ID))
}

var kindTypes = func() map[string]cedar.EntityType {
	out := map[string]cedar.EntityType{}
	for _, k := range authz.Kinds {
		out[k] = cedar.EntityType("Redoubt::" + k)
	}
	return out
}()

// entity is the resource as policies see it: its labels are tags, its stack and the
// cluster contain it.
func (r Resource) entity() cedar.Entity {
	if r.Kind == "" {
		return cedar.Entity{UID: r.uid()}
	}
	parents := []cedar.EntityUID{clusterUID}
	if stack := r.Labels[StackLabel]; stack != "" {
		parents = append(parents, cedar.NewEntityUID("Redoubt::Stack", cedar.String(stack)))
	}
	tags := make(cedar.RecordMap, len(r.Labels))
	for k, v := range r.Labels {
		tags[cedar.String(k)] = cedar.String(v)
	}
	return cedar.Entity{
		UID:        r.uid(),
		Parents:    cedar.NewEntityUIDSet(parents...),
		Attributes: cedar.NewRecord(cedar.RecordMap{"name": cedar.String(r.Name)}),
		Tags:       cedar.NewRecord(tags),
	}
}

// has reports whether the resource has all of the labels. The cluster has none.
func (r Resource) has(labels map[string]string) bool {
	for k, v := range labels {
		if have, ok := r.Labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}
