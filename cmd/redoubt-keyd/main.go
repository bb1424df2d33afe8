// Command redoubt-keyd is the process that holds a manager's keys; see package
// autolock/keyd. It opens no network socket and starts nothing.
package main

import (
	"context"
	"path/filepath"

	"github.com/redoubt-cluster/redoubt/autolock/keyd"
	"github.com/redoubt-cluster/redoubt/internal/daemon"
	"github.com/redoubt-cluster/redoubt/internal/sandbox"
	"github.com/redoubt-cluster/redoubt/internal/tpm"
)

func main() {
	section := keyd.DefaultSection()
	var device *tpm.TPM
	var deviceErr error
	daemon.Main(daemon.Daemon{
		Name:    "redoubt-keyd",
		Section: "keyd",
		Config:  &section,
		Sockets: []string{"keyd", "unlock"},
		Check:   func(daemon.Env) error { return section.Validate() },
		// A TPM that is not there takes no keys from anybody: keyd says so where it is
		// asked for.
		Prepare: func(env daemon.Env) error {
			if section.TPM != "" {
				if device, deviceErr = tpm.Open(section.TPM); deviceErr != nil {
					env.Log.Error("the TPM cannot be used", "err", deviceErr)
				}
			}
			return nil
		},
		Sandbox: func(env daemon.Env) sandbox.Profile {
			return sandbox.Profile{
				Files:    &sandbox.Files{ReadWrite: []string{dir(env)}},
				Syscalls: sandbox.Minimal,
			}
		},
		Run: func(ctx context.Context, env daemon.Env) error {
			s, err := keyd.New(keyd.Config{
				Dir: dir(env), ControlUID: env.ControlUID, Section: section,
				Protections: env.Protections, Logger: env.Log, TPM: device, TPMErr: deviceErr,
			})
			if err != nil {
				return err
			}
			return s.Serve(ctx, env.Listeners["keyd"], env.Listeners["unlock"])
		},
	})
}

func dir(env daemon.Env) string { return filepath.Join(env.DataDir, "keyd") }
