// Command redoubt-keyd is the process that holds a manager's keys; see package
// autolock/keyd. It opens no network socket and starts nothing.
package main

import (
	"context"
	"path/filepath"

	"github.com/redoubt-cluster/redoubt/autolock/keyd"
	"github.com/redoubt-cluster/redoubt/internal/daemon"
	"github.com/redoubt-cluster/redoubt/internal/sandbox"
)

func main() {
	section := keyd.DefaultSection()
	daemon.Main(daemon.Daemon{
		Name:    "redoubt-keyd",
		Section: "keyd",
		Config:  &section,
		Sockets: []string{"keyd", "unlock"},
		Check:   func(daemon.Env) error { return section.Validate() },
		Sandbox: func(env daemon.Env) sandbox.Profile {
			return sandbox.Profile{
				Files:    &sandbox.Files{ReadWrite: []string{dir(env)}},
				Syscalls: sandbox.Minimal,
			}
		},
		Run: func(ctx context.Context, env daemon.Env) error {
			s, err := keyd.New(keyd.Config{
				Dir: dir(env), ControlUID: env.ControlUID, Section: section,
				Protections: env.Protections, Logger: env.Log,
			})
			if err != nil {
				return err
			}
			return s.Serve(ctx, env.Listeners["keyd"], env.Listeners["unlock"])
		},
	})
}

func dir(env daemon.Env) string { return filepath.Join(env.DataDir, "keyd") }
