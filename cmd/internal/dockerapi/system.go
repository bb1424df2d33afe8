package dockerapi

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	redoubt "github.com/redoubt-cluster/redoubt/internal/version"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
)

// server is how the gateway names itself.
func server() string { return "Redoubt/" + redoubt.String() + " (linux)" }

// state is the node's, in Docker's words.
func (n Self) state() swarm.LocalNodeState {
	switch n.Phase {
	case controlpb.NodePhase_NODE_PHASE_EMPTY, controlpb.NodePhase_NODE_PHASE_REMOVED:
		return swarm.LocalNodeStateInactive
	case controlpb.NodePhase_NODE_PHASE_STARTING:
		return swarm.LocalNodeStatePending
	case controlpb.NodePhase_NODE_PHASE_LOCKED:
		return swarm.LocalNodeStateLocked
	case controlpb.NodePhase_NODE_PHASE_ACTIVE, controlpb.NodePhase_NODE_PHASE_NO_QUORUM:
		return swarm.LocalNodeStateActive
	}
	return swarm.LocalNodeStateError
}

// controls reports whether the node answers for the cluster.
func (n Self) controls() bool {
	return n.Manager && n.state() == swarm.LocalNodeStateActive
}

func (s *Server) ping(q *request) (any, error) {
	self := s.c.Self()
	status := string(self.state())
	switch {
	case self.controls():
		status += "/manager"
	case self.state() == swarm.LocalNodeStateActive:
		status += "/worker"
	}
	h := q.w.Header()
	h.Set("Swarm", status)
	h.Set("Builder-Version", "1") // nothing is built here: no BuildKit
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if q.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		return answered{}, nil
	}
	fmt.Fprint(q.w, "OK")
	return answered{}, nil
}

func (s *Server) version(q *request) (any, error) {
	kernel, arch := machine()
	v := redoubt.String()
	return system.VersionResponse{
		Platform: system.PlatformInfo{Name: "Redoubt"}, Version: v, APIVersion: version(maxMinor), MinAPIVersion: version(minMinor),
		Os: "linux", Arch: runtime.GOARCH, GoVersion: runtime.Version(), KernelVersion: kernel,
		Components: []system.ComponentVersion{{Name: "Engine", Version: v, Details: map[string]string{
			"ApiVersion": version(maxMinor), "MinAPIVersion": version(minMinor), "Os": "linux", "Arch": runtime.GOARCH,
			"KernelVersion": kernel, "Machine": arch, "GoVersion": runtime.Version(), "Experimental": "false",
		}}},
	}, nil
}

// machine is the kernel's release and the machine's kind.
func machine() (kernel, arch string) {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "", runtime.GOARCH
	}
	return unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])
}

// info tells of this node. What it says of the cluster is what the caller may see.
func (s *Server) info(q *request) (any, error) {
	self := s.c.Self()
	kernel, arch := machine()
	out := system.Info{
		ID: self.NodeID, Driver: "containerd", KernelVersion: kernel, OSType: "linux", OperatingSystem: "linux", Architecture: arch,
		ServerVersion: redoubt.String(), SystemTime: time.Now().UTC().Format(time.RFC3339Nano), NCPU: runtime.NumCPU(),
		LoggingDriver: "json-file", SecurityOptions: []string{"name=seccomp,profile=builtin", "name=no-new-privileges"}, DefaultRuntime: "runc",
		MemoryLimit: true, PidsLimit: true, IPv4Forwarding: true,
		Plugins: system.PluginsInfo{Volume: []string{volumes.Local}, Network: []string{"bridge", "host", "macvlan", "none", "overlay"}, Log: []string{"json-file"}},
		Swarm:   swarm.Info{NodeID: self.NodeID, LocalNodeState: self.state(), ControlAvailable: self.controls(), Error: self.Message},
	}
	out.Swarm.NodeAddr = host(self.Address)
	for _, m := range self.Managers {
		out.Swarm.RemoteManagers = append(out.Swarm.RemoteManagers, swarm.Peer{Addr: m})
	}
	if !self.controls() {
		return out, nil
	}
	ctx, cancel := context.WithTimeout(q.Context(), infoPatience)
	defer cancel()
	cluster, err := clusterOf(ctx, q.api)
	if err != nil { // it is told that there is a cluster, and no more
		out.Swarm.Error = cmp.Or(out.Swarm.Error, refusalOf(err).text)
		return out, nil
	}
	out.Swarm.Cluster = &cluster.ClusterInfo
	out.Swarm.Nodes, out.Swarm.Managers = int(cluster.status.GetNodes()), len(cluster.status.GetManagers())
	out.Swarm.RemoteManagers = nil
	for _, m := range cluster.status.GetManagers() {
		out.Swarm.RemoteManagers = append(out.Swarm.RemoteManagers, swarm.Peer{NodeID: m.GetNodeId(), Addr: m.GetAddress()})
	}
	slices.SortFunc(out.Swarm.RemoteManagers, func(a, b swarm.Peer) int { return cmp.Compare(a.Addr, b.Addr) })
	out.Swarm.Warnings = cluster.status.GetWarnings()
	if r, err := q.api.ListNodes(ctx, &controlpb.ListNodesRequest{Nodes: []string{self.NodeID}}); err == nil && len(r.GetNodes()) == 1 {
		n := r.GetNodes()[0]
		out.Name = n.GetName()
		out.MemTotal = n.GetNode().GetDescription().GetResources().GetMemoryBytes()
		out.ContainersRunning, out.Containers = int(n.GetTasks()), int(n.GetTasks())
		out.OperatingSystem = cmp.Or(n.GetNode().GetDescription().GetOs(), out.OperatingSystem)
	}
	return out, nil
}

// host is the host of host:port, or what there is.
func host(address string) string {
	if h, _, err := net.SplitHostPort(address); err == nil {
		return h
	}
	return address
}
