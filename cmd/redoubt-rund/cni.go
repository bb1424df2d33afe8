package main

import (
	"errors"
	"flag"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/redoubt-cluster/redoubt/internal/config"
	"github.com/redoubt-cluster/redoubt/internal/daemon"
	"github.com/redoubt-cluster/redoubt/internal/sandbox"
	"github.com/redoubt-cluster/redoubt/scheduler/rund"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/cni"
)

// launch starts the process that runs CNI plugins, on a node that has some, and
// gives up what only that needs.
func launch(env daemon.Env, c rund.Config) (client *cni.Client, err error) {
	if c.CNI.Enabled() {
		client, err = cni.Launch("--config", env.ConfigPath, "--data-dir", env.DataDir, "--run-dir", env.RunDir)
		if err != nil {
			return nil, err
		}
	}
	return client, sandbox.Keep(rund.Profile().Capabilities...)
}

// helper is the main function of that process.
func helper(args []string) error {
	fs := flag.NewFlagSet("redoubt-rund "+cni.Command, flag.ContinueOnError)
	file, data, run := fs.String("config", "", ""), fs.String("data-dir", "", ""), fs.String("run-dir", "", "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *file == "" || *data == "" || *run == "" {
		return errors.New("redoubt-rund " + cni.Command + " is not for people to start: redoubt-rund does")
	}
	var logs struct {
		Level slog.Level `yaml:"level"`
	}
	c := rund.Defaults()
	if err := config.Load(*file, map[string]any{"log": &logs, "rund": &c}); err != nil {
		return err
	}
	if err := c.Validate(); err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: logs.Level})).With("daemon", "redoubt-rund", "process", cni.Command)
	return cni.Helper(cni.Options{Config: c.CNI, Netns: filepath.Join(*run, "netns"), State: filepath.Join(*data, "cni"),
		Bin: filepath.Join(*run, "cni"), Log: log})
}
