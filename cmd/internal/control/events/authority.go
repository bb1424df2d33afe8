package events

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

var phases = map[pkipb.Rotation_Phase]string{
	pkipb.Rotation_PHASE_DISTRIBUTE: "root-begin",
	pkipb.Rotation_PHASE_REISSUE:    "root-switch",
	pkipb.Rotation_PHASE_RETURN:     "root-abort",
}

// authority tells of the cluster's CAs, and of certificates that nobody gave out.
func authority(r raftstore.Reader, old, now *pkipb.Cluster) *controlpb.Event {
	known := func(u *pkipb.Unjournalled) bool {
		return slices.ContainsFunc(old.GetUnjournalled(), func(o *pkipb.Unjournalled) bool { return proto.Equal(o, u) })
	}
	if list := now.GetUnjournalled(); len(list) > 0 && !known(list[0]) {
		u := list[0]
		n, _ := pkistore.Nodes.Get(r, u.GetNodeId())
		e := event("ca", "unjournalled", u.GetNodeId(), cmp.Or(n.GetName(), u.GetNodeId()))
		set(e, "serial", u.GetSerial())
		set(e, "source", u.GetSource())
		set(e, "role", profile.RoleName(u.GetRole()))
		set(e, "why", pki.UnjournalledRemedy(u))
		return e
	}
	if e := externalEvent(old.GetExternal(), now.GetExternal()); e != nil {
		return e
	}
	if pki.KeysetEpoch(old) == pki.KeysetEpoch(now) {
		return nil
	}
	e := event("ca", "rotate", "", "")
	switch was, is := old.GetRotation(), now.GetRotation(); {
	case is != nil:
		e.Action = phases[is.GetPhase()]
	case was != nil && now.GetLastRotation().GetAborted():
		e.Action = "root-aborted"
	case was != nil:
		e.Action = "root-end"
	}
	set(e, "epoch", fmt.Sprint(pki.KeysetEpoch(now)))
	return e
}

// externalEvent tells of the CA outside of the cluster: that it is another, that it
// certifies nothing, that it does again.
func externalEvent(old, now *pkipb.External) *controlpb.Event {
	switch {
	case now == nil && old == nil:
		return nil
	case now == nil:
		e := event("ca", "external-rm", "", "")
		set(e, "url", old.GetUrl())
		return e
	}
	action := ""
	switch {
	case old == nil, old.GetUrl() != now.GetUrl(), !bytes.Equal(old.GetRoot(), now.GetRoot()), old.GetProvisioner() != now.GetProvisioner():
		action = "external-set"
	case old.GetFailure() == now.GetFailure():
		return nil
	case now.GetFailure() == "":
		action = "external-recovered"
	default:
		action = "external-failing"
	}
	e := event("ca", action, "", "")
	set(e, "url", now.GetUrl())
	set(e, "why", now.GetFailure())
	return e
}
