package node

import (
	"errors"

	"github.com/redoubt-cluster/redoubt/internal/daemon"
	"github.com/redoubt-cluster/redoubt/mesh/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

var errNoMeshInFIPS = errors.New("this node is in FIPS mode and has no mesh: " + spec.NoMeshInFIPS)

// fips is what managers and operators are told of a node in FIPS mode, with what it
// uses outside of the module; nil: it is in none.
func (n *Node) fips() *taskpb.Feature {
	if !n.env.FIPS {
		return nil
	}
	return &taskpb.Feature{Name: spec.FIPSFeature, Present: true, Detail: daemon.FIPSModule() +
		"; not validated: memguard's secretbox, in which keyd holds keys in memory; WireGuard is not validated and not used: " + spec.NoMeshInFIPS}
}
