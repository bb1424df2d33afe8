// Command redoubt-netd keeps the network of a node's containers: see package
// mesh/netd. redoubt-node or a systemd unit starts it and passes its socket.
// With --cleanup as its first argument it deletes what an earlier one made in
// this network namespace, and in those of networks below --run-dir, and ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/redoubt-cluster/redoubt/internal/daemon"
	"github.com/redoubt-cluster/redoubt/internal/sandbox"
	"github.com/redoubt-cluster/redoubt/mesh/netd"
	"github.com/redoubt-cluster/redoubt/mesh/netd/fabric"
	"github.com/redoubt-cluster/redoubt/mesh/netd/ingress"
	"github.com/redoubt-cluster/redoubt/mesh/netd/overlay"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "--cleanup" {
		os.Exit(cleanUp(os.Args[2:]))
	}
	var config netd.Config
	daemon.Main(daemon.Daemon{
		Name:    "redoubt-netd",
		Section: "netd",
		Config:  &config,
		Sockets: []string{"netd", "wg"},
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
			o, err := overlay.New(overlay.Options{RunDir: env.RunDir, Fabric: f, Logger: env.Log})
			if err != nil {
				return err
			}
			defer o.Close()
			i, err := ingress.New(ingress.Options{RunDir: env.RunDir, Logger: env.Log, Mesh: f})
			if err != nil {
				return err
			}
			defer i.Close()
			n, err := netd.New(netd.Options{RunDir: env.RunDir, Config: config, Logger: env.Log, Fabric: f, Overlays: o, Ingress: i, Named: filepath.Join(env.RunDir, "named-net.sock")})
			if err != nil {
				return err
			}
			defer n.Close()
			g, ctx := errgroup.WithContext(ctx)
			g.Go(func() error { return n.Serve(ctx, env.Listeners["netd"], env.ControlUID) })
			g.Go(func() error { return f.ServeTool(ctx, env.Listeners["wg"]) })
			return g.Wait()
		},
	})
}

// cleanUp returns the exit code: that of daemons.
func cleanUp(args []string) int {
	fs := flag.NewFlagSet("redoubt-netd --cleanup", flag.ContinueOnError)
	runDir := fs.String("run-dir", "/run/redoubt", "`directory` of the namespaces")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "redoubt-netd: unexpected argument %q: only flags are taken\n", fs.Arg(0))
		return 2
	}
	// What the tables guard goes before them.
	if err := errors.Join(overlay.Cleanup(*runDir, nil), ingress.Cleanup(*runDir, nil), netd.Cleanup(nil), fabric.Cleanup(nil)); err != nil {
		fmt.Fprintf(os.Stderr, "redoubt-netd: %v\n", err)
		return 1
	}
	return 0
}
