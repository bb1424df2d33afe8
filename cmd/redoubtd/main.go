// Command redoubtd is the control daemon: the replicated store, the API, the
// scheduler and this node's agent. It holds the node's certificate and, on an
// unlocked manager, the cluster's state; it has no capability, and reaches keys,
// containers and network through the helpers' sockets only.
package main

import (
	"context"
	"net/netip"

	"github.com/redoubt-cluster/redoubt/cmd/internal/node"
	"github.com/redoubt-cluster/redoubt/internal/daemon"
	"github.com/redoubt-cluster/redoubt/internal/sandbox"
	"github.com/redoubt-cluster/redoubt/mesh/peer"
)

func main() {
	cfg := node.DefaultConfig()
	daemon.Main(daemon.Daemon{
		Name: "redoubtd", Section: "node", Config: &cfg, Sockets: []string{"api", "users", "docker", "metrics"}, Tell: "api",
		Check: func(daemon.Env) error { return cfg.Check() },
		Sandbox: func(env daemon.Env) sandbox.Profile {
			listen := netip.MustParseAddrPort(cfg.Listen)
			return sandbox.Profile{Syscalls: sandbox.Network, Files: &sandbox.Files{
				ReadOnly:  []string{"/etc", "/usr/share/zoneinfo", "/proc", "/sys/fs/cgroup", "/sys/kernel/mm", env.RunDir},
				ReadWrite: []string{env.DataDir + "/control"},
				BindTCP:   []uint16{listen.Port(), peer.DefaultPort}, Connect: true,
			}}
		},
		Run: func(ctx context.Context, env daemon.Env) error { return node.Run(ctx, cfg, env) },
	})
}
