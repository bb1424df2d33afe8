// Command redoubt-rund runs a node's containers; see package rund. As
// "redoubt-rund logger" it is the process that writes one container's log, as
// "redoubt-rund cni" the one that runs CNI plugins; see package cni.
package main

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/redoubt-cluster/redoubt/internal/daemon"
	"github.com/redoubt-cluster/redoubt/internal/peercred"
	"github.com/redoubt-cluster/redoubt/internal/sandbox"
	"github.com/redoubt-cluster/redoubt/scheduler/rund"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/cni"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/tasklog"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/threatmodel/control"
)

func main() {
	others := map[string]func([]string) error{tasklog.Command: tasklog.Main, cni.Command: helper}
	if len(os.Args) > 1 && others[os.Args[1]] != nil {
		if err := others[os.Args[1]](os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	config := rund.Defaults()
	var plugins *cni.Client
	daemon.Main(daemon.Daemon{
		Name:    "redoubt-rund",
		Section: "rund",
		Config:  &config,
		Sockets: []string{"rund", "identity"},
		Check:   func(daemon.Env) error { return config.Validate() },
		Prepare: func(env daemon.Env) (err error) { plugins, err = launch(env, config); return err },
		Sandbox: func(daemon.Env) sandbox.Profile { return rund.Profile() },
		Run:     func(ctx context.Context, env daemon.Env) error { return run(ctx, env, config, plugins) },
	})
}

func run(ctx context.Context, env daemon.Env, config rund.Config, plugins *cni.Client) error {
	if plugins != nil {
		defer plugins.Close()
	}
	s, err := rund.New(rund.Options{Config: config, RunDir: env.RunDir, DataDir: env.DataDir, CNI: plugins, Check: check(env), Log: env.Log})
	if err != nil {
		return err
	}
	denied := func(err error) { env.Log.Warn("connection refused", "err", err) }
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return s.Serve(ctx, peercred.Named(peercred.Listener(env.Listeners["rund"], denied, env.ControlUID, 0)))
	})
	g.Go(func() error {
		return s.ServeIdentity(ctx, peercred.Listener(env.Listeners["identity"], denied, env.ControlUID))
	})
	return g.Wait()
}

// check judges this node by its controls.
func check(env daemon.Env) func(context.Context, []string, rund.Inventory) []*taskpb.CheckResult {
	return func(ctx context.Context, ids []string, of rund.Inventory) (out []*taskpb.CheckResult) {
		own := control.Rund{
			Containers: func(ctx context.Context) (all []control.Container, err error) {
				list, err := of.Containers(ctx)
				for _, r := range list {
					all = append(all, control.Container(r))
				}
				return all, err
			},
			Lock: func() control.Lock { return control.Lock(of.Lock()) },
		}
		for _, r := range control.RunOwn(ctx, env.RunDir, env.DataDir, ids, own) {
			out = append(out, &taskpb.CheckResult{Control: r.Control.ID, Outcome: string(r.Outcome), Evidence: r.Evidence, Took: int64(r.Took)})
		}
		return out
	}
}
