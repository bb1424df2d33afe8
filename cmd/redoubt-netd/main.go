// Command redoubt-netd keeps the network of a node's containers: see package
// mesh/netd. redoubt-node or a systemd unit starts it and passes its socket.
// With --cleanup as its only argument it deletes what an earlier one made in
// this network namespace, and ends.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/redoubt-cluster/redoubt/internal/daemon"
	"github.com/redoubt-cluster/redoubt/internal/sandbox"
	"github.com/redoubt-cluster/redoubt/mesh/netd"
	"github.com/redoubt-cluster/redoubt/mesh/netd/fabric"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--cleanup" {
		if err := errors.Join(netd.Cleanup(nil), fabric.Cleanup(nil)); err != nil {
			fmt.Fprintf(os.Stderr, "redoubt-netd: %v\n", err)
			os.Exit(1)
		}
		return
	}
	var config netd.Config
	daemon.Main(daemon.Daemon{
		Name:    "redoubt-netd",
		Section: "netd",
		Config:  &config,
		Sockets: []string{"netd"},
		Sandbox: func(daemon.Env) sandbox.Profile { return netd.SandboxProfile() },
		Run: func(ctx context.Context, env daemon.Env) error {
			f, err := fabric.New(fabric.Options{Logger: env.Log})
			if err != nil {
				return err
			}
			defer f.Close()
			if err := f.Start(); err != nil {
				return fmt.Errorf("close the mesh: %w", err)
			}
			n, err := netd.New(netd.Options{RunDir: env.RunDir, Config: config, Logger: env.Log, Fabric: f})
			if err != nil {
				return err
			}
			defer n.Close()
			return n.Serve(ctx, env.Listeners["netd"], env.ControlUID)
		},
	})
}
