package events

import (
	"cmp"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

func token(old, now *pkipb.Token) *controlpb.Event {
	switch {
	case now == nil:
		return event("token", "remove", old.GetId(), "")
	case old == nil:
		return event("token", "create", now.GetId(), "")
	case now.GetDecision() != nil && !proto.Equal(old.GetDecision(), now.GetDecision()):
		return decision(now)
	case !old.GetRevoked() && now.GetRevoked():
		return event("token", "revoke", now.GetId(), "")
	case old.GetUses() != now.GetUses():
		return event("token", "use", now.GetId(), "")
	}
	return nil
}

// config tells of names alone: what a config holds is for whoever inspects it.
func config(old, now *secretspb.Config) *controlpb.Event {
	switch {
	case now == nil:
		return labelled("config", "remove", old.GetId(), old.GetSpec())
	case old == nil:
		return labelled("config", "create", now.GetId(), now.GetSpec())
	}
	_, was := secretstore.VersionsOf(old)
	versions, is := secretstore.VersionsOf(now)
	return fileUpdate("config", now.GetId(), now.GetSpec(), was, is, versions)
}

// secret tells of names and numbers of versions.
func secret(old, now *secretspb.Secret) *controlpb.Event {
	switch {
	case now == nil:
		return labelled("secret", "remove", old.GetId(), old.GetSpec())
	case old == nil:
		return labelled("secret", "create", now.GetId(), now.GetSpec())
	}
	return fileUpdate("secret", now.GetId(), now.GetSpec(), old.GetCurrent(), now.GetCurrent(), now.GetVersions())
}

func fileUpdate(kind, id string, spec described, was, is uint64, versions []*secretspb.VersionFacts) *controlpb.Event {
	if was == is { // somebody begins to use it, or its data moved
		return nil
	}
	e := labelled(kind, "update", id, spec)
	if is < versions[len(versions)-1].GetNumber() {
		e.Action = "rollback"
	}
	e.Attributes["version"] = fmt.Sprint(is)
	return e
}

// network says nothing of networks that come and go with a service.
func network(old, now *meshpb.Network) *controlpb.Event {
	switch n := cmp.Or(now, old); {
	case n.GetKind() == meshpb.Kind_KIND_INGRESS || old != nil && now != nil:
		return nil
	case now == nil:
		return labelled("network", "remove", n.GetId(), n.GetSpec())
	default:
		return labelled("network", "create", n.GetId(), n.GetSpec())
	}
}

// volume tells "remove" when its data is to be deleted, and "destroy" when no node has any
// left.
func volume(old, now *schedulerpb.Volume) *controlpb.Event {
	v, action := cmp.Or(now, old), ""
	switch {
	case now == nil:
		action = "destroy"
	case old == nil:
		action = "create"
	case old.GetRemovingSince() == 0 && now.GetRemovingSince() != 0:
		action = "remove"
	default:
		return nil
	}
	e := event("volume", action, v.GetId(), v.GetSpec().GetName())
	set(e, "driver", v.GetSpec().GetDriver())
	return e
}

func policy(old, now *meshpb.Policy) *controlpb.Event {
	switch {
	case now == nil:
		return labelled("policy", "remove", old.GetId(), old.GetSpec())
	case old == nil:
		return labelled("policy", "create", now.GetId(), now.GetSpec())
	}
	return nil
}

// identity tells of workload identities that are revoked and allowed again.
func identity(old, now *pkipb.DeniedIdentity) *controlpb.Event {
	switch {
	case now == nil || old != nil && old.GetAllowedAt() == now.GetAllowedAt():
		return nil
	case now.GetAllowedAt() != 0:
		return event("identity", "allow", now.GetId(), "")
	}
	return event("identity", "revoke", now.GetId(), "")
}
