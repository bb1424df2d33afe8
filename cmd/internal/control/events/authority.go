package events

import (
	"cmp"
	"fmt"

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
	if list := now.GetUnjournalled(); len(list) > 0 && (len(old.GetUnjournalled()) == 0 || string(old.GetUnjournalled()[0].GetSpki()) != string(list[0].GetSpki())) {
		u := list[0]
		n, _ := pkistore.Nodes.Get(r, u.GetNodeId())
		e := event("ca", "unjournalled", u.GetNodeId(), cmp.Or(n.GetName(), u.GetNodeId()))
		set(e, "serial", u.GetSerial())
		set(e, "source", u.GetSource())
		set(e, "role", profile.RoleName(u.GetRole()))
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
