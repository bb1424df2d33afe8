// Command redoubt-rund runs a node's containers; see package rund. As
// "redoubt-rund logger" it is the process that writes one container's log.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/redoubt-cluster/redoubt/internal/daemon"
	"github.com/redoubt-cluster/redoubt/internal/peercred"
	"github.com/redoubt-cluster/redoubt/internal/sandbox"
	"github.com/redoubt-cluster/redoubt/scheduler/rund"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/tasklog"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == tasklog.Command {
		if err := tasklog.Main(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	config := rund.Defaults()
	daemon.Main(daemon.Daemon{
		Name:    "redoubt-rund",
		Section: "rund",
		Config:  &config,
		Sockets: []string{"rund"},
		Check:   func(daemon.Env) error { return config.Validate() },
		Sandbox: func(daemon.Env) sandbox.Profile { return rund.Profile() },
		Run:     func(ctx context.Context, env daemon.Env) error { return run(ctx, env, config) },
	})
}

func run(ctx context.Context, env daemon.Env, config rund.Config) error {
	s, err := rund.New(rund.Options{Config: config, RunDir: env.RunDir, DataDir: env.DataDir, Log: env.Log})
	if err != nil {
		return err
	}
	denied := func(err error) { env.Log.Warn("connection refused", "err", err) }
	return s.Serve(ctx, peercred.Listener(env.Listeners["rund"], denied, env.ControlUID))
}
