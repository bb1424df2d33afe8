// Command redoubt-named answers the names that a node's containers ask for: see
// package mesh/named. redoubt-node or a systemd unit starts it and passes its
// sockets.
package main

import (
	"context"
	"flag"
	"fmt"

	"github.com/redoubt-cluster/redoubt/internal/account"
	"github.com/redoubt-cluster/redoubt/internal/daemon"
	"github.com/redoubt-cluster/redoubt/internal/sandbox"
	"github.com/redoubt-cluster/redoubt/mesh/named"
)

func main() {
	var netd account.Account
	daemon.Main(daemon.Daemon{
		Name:    "redoubt-named",
		Sockets: []string{"named", "named-net"},
		Flags: func(fs *flag.FlagSet) func() error {
			name := fs.String("netd-user", "", "`user` (name or uid) of redoubt-netd, which hands over sockets")
			return func() (err error) {
				if netd, err = account.Lookup(*name); err != nil {
					err = fmt.Errorf("--netd-user: %w", err)
				}
				return err
			}
		},
		Sandbox: func(daemon.Env) sandbox.Profile { return named.SandboxProfile() },
		Run: func(ctx context.Context, env daemon.Env) error {
			s := named.New(env.Log)
			defer s.Close()
			return s.Serve(ctx, env.Listeners["named"], env.ControlUID, env.Listeners["named-net"], uint32(netd.UID))
		},
	})
}
