package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/moby/swarmkit/v2/agent/exec"
	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/log"
	"github.com/moby/swarmkit/v2/manager/encryption"
	"github.com/moby/swarmkit/v2/node"
	"github.com/sirupsen/logrus"
)

// runMember is the whole life of a manager's process.
func runMember(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("member", flag.ContinueOnError)
	name, dir := f.String("name", "", ""), f.String("dir", "", "")
	address, socket := f.String("address", "", ""), f.String("socket", "", "")
	join, token, unlock := f.String("join", "", ""), f.String("token", "", ""), f.String("unlock", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	cfg := &node.Config{
		Hostname: *name, StateDir: filepath.Join(*dir, "state"), JoinAddr: *join, JoinToken: *token,
		ListenControlAPI: *socket, ListenRemoteAPI: *address, AdvertiseRemoteAPI: *address,
		Executor: idle{hostname: *name}, HeartbeatTick: 1, ElectionTick: 10, // as in dockerd
		AutoLockManagers: true,
		Availability:     api.NodeAvailabilityDrain,
	}
	if *unlock != "" {
		key, err := encryption.ParseHumanReadableKey(*unlock)
		if err != nil {
			return err
		}
		cfg.UnlockKey = key
	}
	return runNode(ctx, cfg)
}

func runNode(ctx context.Context, cfg *node.Config) error {
	log.L.Logger.SetLevel(logrus.ErrorLevel)
	n, err := node.New(cfg)
	if err != nil {
		return err
	}
	if err := n.Start(ctx); err != nil {
		return err
	}
	stop, cancel := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- n.Err(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-stop.Done():
		return n.Stop(ctx)
	}
}

// runAgents runs workers that do nothing, all in this process, until it ends.
func runAgents(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("agents", flag.ContinueOnError)
	n, dir := f.Int("n", 0, ""), f.String("dir", "", "")
	join, token := f.String("join", "", ""), f.String("token", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	errs := make(chan error, *n)
	var wg sync.WaitGroup
	for i := range *n {
		name := fmt.Sprintf("w%d", i)
		wg.Go(func() {
			errs <- runNode(ctx, &node.Config{Hostname: name, StateDir: filepath.Join(*dir, name), JoinAddr: *join, JoinToken: *token,
				ListenControlAPI: filepath.Join(*dir, name+".sock"), Executor: idle{hostname: name}})
		})
	}
	err := <-errs // none ends by itself
	fmt.Fprintln(os.Stderr, "an agent ended:", err)
	wg.Wait()
	return err
}

// idle is an executor whose tasks start at once and run until they are stopped.
type idle struct{ hostname string }

func (e idle) Describe(context.Context) (*api.NodeDescription, error) {
	return &api.NodeDescription{Hostname: e.hostname, Platform: &api.Platform{OS: "linux", Architecture: "amd64"},
		Resources: &api.Resources{NanoCPUs: 64e9, MemoryBytes: 256 << 30}, Engine: &api.EngineDescription{EngineVersion: "bench"}}, nil
}
func (idle) Configure(context.Context, *api.Node) error         { return nil }
func (idle) SetNetworkBootstrapKeys([]*api.EncryptionKey) error { return nil }
func (idle) Controller(*api.Task) (exec.Controller, error)      { return idleTask{}, nil }

type idleTask struct{}

func (idleTask) Update(context.Context, *api.Task) error { return nil }
func (idleTask) Prepare(context.Context) error           { return nil }
func (idleTask) Start(context.Context) error             { return nil }
func (idleTask) Wait(ctx context.Context) error          { <-ctx.Done(); return ctx.Err() }
func (idleTask) Shutdown(context.Context) error          { return nil }
func (idleTask) Terminate(context.Context) error         { return nil }
func (idleTask) Remove(context.Context) error            { return nil }
func (idleTask) Close() error                            { return nil }
