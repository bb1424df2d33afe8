package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/secrets/credential"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	secretspec "github.com/redoubt-cluster/redoubt/secrets/spec"
)

func (a *app) secretCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "secret", Short: "Keep data that only the tasks may read that it is for",
		Long: `secret keeps named data in the cluster that nobody reads but the tasks of
services which name it: passwords, keys, what a registry of images is shown.

The command seals it to the cluster's public key, which it asks this manager's keyd
for over a socket of this machine. The managers keep what they cannot read; a node
gets it, sealed to that node, while a task that may read it is there, and keeps it
in memory alone. No command shows what is in a secret.`,
	}
	group(c)
	c.AddCommand(a.secretCreateCmd(), a.secretLsCmd(), a.secretInspectCmd(), a.secretUpdateCmd(), a.rollbackCmd(false), a.secretRmCmd(), a.grantsCmd(false))
	return c
}

// secretData is where the data of a secret comes from: never from an argument,
// which every user of the machine can read.
type secretData struct{ registry, username string }

func (d *secretData) add(c *cobra.Command) {
	c.Flags().StringVar(&d.registry, "registry", "", "HOST[:PORT]: what is read is the password for that registry of images (docker.io for names without a host)")
	c.Flags().StringVar(&d.username, "username", "", "user of the registry")
}

func (d *secretData) check() error {
	if (d.registry == "") != (d.username == "") {
		return usagef("--registry and --username belong together")
	}
	return nil
}

// read reads as much as a secret may hold.
func (d *secretData) read(a *app, path string) ([]byte, error) {
	data, err := a.readSecretData(path)
	if err != nil || d.registry == "" {
		return data, err
	}
	defer clear(data)
	return credential.Encode(d.registry, d.username, bytes.TrimRight(data, "\r\n"))
}

func (a *app) readSecretData(path string) (data []byte, err error) {
	var in io.Reader
	switch path {
	case "":
		return nil, usagef("the file's name is empty: name one, or - for standard input")
	case "-":
		if t, ok := a.Stdin.(*os.File); ok && term.IsTerminal(int(t.Fd())) {
			fmt.Fprint(a.Stderr, "Secret (one line, without its end): ")
			data, err = term.ReadPassword(int(t.Fd()))
			fmt.Fprintln(a.Stderr)
			if err == nil && len(data) == 0 {
				err = errEmptySecret
			}
			return data, err
		}
		in = a.Stdin
	default:
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		a.warnReadable(f)
		in = f
	}
	data, err = io.ReadAll(io.LimitReader(in, maxSecretData+1))
	switch {
	case err != nil:
		err = fmt.Errorf("cannot read the secret: %w", err)
	case len(data) > maxSecretData:
		err = fmt.Errorf("the secret is longer than %d bytes: split it, or keep a key here and the data it opens elsewhere", maxSecretData)
	case len(data) == 0:
		err = errEmptySecret
	}
	if err != nil {
		clear(data)
		return nil, err
	}
	return data, nil
}

var errEmptySecret = errors.New("the secret is empty: give it data")

// seal makes a version of a secret from what is read at path.
func (a *app) seal(ctx context.Context, id, kind string, data []byte) (v *controlpb.NewVersion, err error) {
	err = a.withKeyd(ctx, func(ctx context.Context, k *apiclient.Keyd) error {
		to, err := k.Recipient(ctx)
		if err != nil {
			return err
		}
		v, err = to.Seal(id, kind, data)
		return err
	})
	return v, err
}

func (a *app) secretCreateCmd() *cobra.Command {
	var labels []string
	var data secretData
	var keep uint32
	c := &cobra.Command{
		Use: "create [flags] NAME FILE|-", Short: "Make a secret from a file or standard input",
		Long: fmt.Sprintf(`create seals what FILE holds, at most %d bytes of any kind, and keeps it under
NAME. At a terminal - asks for one line, which is not shown. All of a file counts,
also the end of its last line.

With --registry it is the password for a registry of images, which services name by
--registry-auth and no container gets.`, maxSecretData),
		Example: `  redoubt secret create db-password -
  openssl rand -hex 32 | redoubt secret create --label team=web session-key -
  redoubt secret create --keep 5 tls-key ./key.pem
  redoubt secret create --registry registry.example --username ci hub ./token`,
		Args: args(2, 2),
		RunE: func(c *cobra.Command, got []string) (err error) {
			spec := &secretspb.SecretSpec{Name: got[0], Kind: secretspb.SecretKind_SECRET_KIND_FILE, Keep: keep}
			if err := data.check(); err != nil {
				return err
			}
			if data.registry != "" {
				spec.Kind = secretspb.SecretKind_SECRET_KIND_REGISTRY
			}
			if spec.Labels, err = keyValues("--label", labels); err != nil {
				return err
			}
			if err := secretspec.CheckSecret(spec); err != nil {
				return usagef("%v", err)
			}
			plain, err := data.read(a, got[1])
			if err != nil {
				return err
			}
			defer clear(plain)
			req := &controlpb.CreateSecretRequest{Id: ident.New(), Spec: spec}
			if req.Version, err = a.seal(c.Context(), req.Id, secretspec.KindOf(spec), plain); err != nil {
				return err
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				_, err := api.CreateSecret(ctx, req)
				if err == nil {
					fmt.Fprintln(a.Stdout, req.Id)
				}
				return err
			})
		},
	}
	c.Flags().StringArrayVarP(&labels, "label", "l", nil, "label of the secret")
	c.Flags().Uint32Var(&keep, "keep", 0, "how many versions are kept (default 10)")
	data.add(c)
	return c
}

func (a *app) secretUpdateCmd() *cobra.Command {
	var data secretData
	c := &cobra.Command{
		Use: "update [flags] SECRET FILE|-", Short: "Give a secret new data, which running tasks get",
		Long: `update adds a version and makes it the current one. Tasks that run get it within
seconds, in their containers, all at once; services say whether that is all, their
program gets a signal, or their tasks are replaced (on-update of --secret). Services
that name a version by number stay at that one.

The versions of before stay, as many as the secret keeps: see redoubt secret rollback.`,
		Example: `  redoubt secret update db-password -
  redoubt secret update tls-key ./key.pem
  redoubt secret update --registry registry.example --username ci hub ./token`,
		Args: args(2, 2),
		RunE: func(c *cobra.Command, got []string) error {
			if err := data.check(); err != nil {
				return err
			}
			var old *secretspb.Secret
			err := a.with(c.Context(), func(ctx context.Context, api *api) error {
				all, err := api.ListSecrets(ctx, got[:1])
				if err == nil {
					old = all[0]
				}
				return err
			})
			if err != nil {
				return err
			}
			if registry := old.GetSpec().GetKind() == secretspb.SecretKind_SECRET_KIND_REGISTRY; registry != (data.registry != "") {
				return usagef("secret %s is of kind %s: --registry and --username are for a registry's, and needed there", old.GetSpec().GetName(), enumName(old.GetSpec().GetKind(), "SECRET_KIND_"))
			}
			plain, err := data.read(a, got[1])
			if err != nil {
				return err
			}
			defer clear(plain)
			req := &controlpb.UpdateSecretRequest{Id: old.GetId()}
			if req.Version, err = a.seal(c.Context(), req.Id, secretspec.KindOf(old.GetSpec()), plain); err != nil {
				return err
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.UpdateSecret(ctx, req)
				if err == nil {
					a.printUpdated(r)
				}
				return err
			})
		},
	}
	data.add(c)
	return c
}

// printUpdated says what comes of another current version.
func (a *app) printUpdated(r *controlpb.UpdateFileResponse) {
	fmt.Fprintf(a.Stdout, "Version %d is current.\n", r.GetVersion())
	if n := r.GetServices(); n > 0 {
		fmt.Fprintf(a.Stdout, "%d services with %d tasks get it in place.\n", n, r.GetTasks())
	}
	if names := r.GetRestarted(); len(names) > 0 {
		fmt.Fprintf(a.Stdout, "Tasks are replaced for it: %s\n", printable(strings.Join(names, ", ")))
	}
}

func (a *app) secretRmCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rm SECRET...", Aliases: []string{"remove"}, Short: "Remove secrets that nothing uses",
		Long: `rm removes secrets with all their versions. It is refused while a service names one,
or a task of before has it: redoubt secret grants says who.`,
		Example: `  redoubt secret rm db-password`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.each(c.Context(), names, func(ctx context.Context, api *api, n string) (string, error) {
				_, err := api.RemoveSecret(ctx, &controlpb.RemoveSecretRequest{Secret: n})
				return n, err
			})
		},
	}
}

// rollbackCmd is for secrets and for configs.
func (a *app) rollbackCmd(config bool) *cobra.Command {
	what, upper, example := "secret", "SECRET", "db-password"
	if config {
		what, upper, example = "config", "CONFIG", "site"
	}
	var version uint64
	c := &cobra.Command{
		Use: "rollback [--version N] " + upper, Short: "Make an earlier version of a " + what + " the current one",
		Long: `rollback makes the version before the current one the current one, or that of
--version, which may also be a later one. Tasks get it as they get an update.`,
		Example: fmt.Sprintf("  redoubt %s rollback %s\n  redoubt %s rollback --version 3 %s", what, example, what, example),
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, got []string) error {
			if c.Flags().Changed("version") && version == 0 {
				return usagef("--version 0: versions are numbered from 1")
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.RollbackFile(ctx, &controlpb.RollbackFileRequest{Name: got[0], Config: config, Version: version})
				if err == nil {
					a.printUpdated(r)
				}
				return err
			})
		},
	}
	c.Flags().Uint64Var(&version, "version", 0, "number of the version (default: the one before the current)")
	return c
}
