package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

func (a *app) configCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "config", Short: "Keep data that services are to read",
		Long: `config keeps named data in the cluster: settings, certificates without their
keys. Services that name one have it in their containers, at /run/configs.

A config is no place for a secret: root on any manager reads it with
` + "`redoubt config inspect`" + `.`,
	}
	group(c)
	c.AddCommand(a.configCreateCmd(), a.configLsCmd(), a.configInspectCmd(), a.configUpdateCmd(), a.rollbackCmd(true), a.configRmCmd(), a.grantsCmd(true))
	return c
}

func (a *app) configCreateCmd() *cobra.Command {
	var labels []string
	var keep uint32
	template := false
	c := &cobra.Command{
		Use: "create [flags] NAME FILE|-", Short: "Make a config from a file or standard input",
		Long: fmt.Sprintf(`create stores what FILE holds, at most %d bytes, under NAME.
With --template each task gets what becomes of it on its node: docs/operations.md
says what it may refer to.

Never a secret: root on any manager can read it.`, maxConfig),
		Example: `  redoubt config create site-v2 ./site.conf
  sed s/8080/80/ site.conf | redoubt config create --label team=web site-v3 -`,
		Args: args(2, 2),
		RunE: func(c *cobra.Command, got []string) error {
			spec := &secretspb.ConfigSpec{Name: got[0], Template: template, Keep: keep}
			err := ident.CheckOwnName("config", spec.Name)
			if err != nil {
				return usagef("%v", err)
			}
			if spec.Labels, err = keyValues("--label", labels); err != nil {
				return err
			}
			if spec.Data, err = a.readConfig(got[1]); err != nil {
				return err
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.CreateConfig(ctx, &controlpb.CreateConfigRequest{Spec: spec})
				if err == nil {
					fmt.Fprintln(a.Stdout, printable(r.GetId()))
				}
				return err
			})
		},
	}
	c.Flags().StringArrayVarP(&labels, "label", "l", nil, "label of the config")
	c.Flags().BoolVar(&template, "template", false, "it is a template")
	c.Flags().Uint32Var(&keep, "keep", 0, "how many versions are kept (default 10)")
	return c
}

func (a *app) configUpdateCmd() *cobra.Command {
	return &cobra.Command{
		Use: "update CONFIG FILE|-", Short: "Give a config new data, which running tasks get",
		Long: `update adds a version and makes it the current one, as redoubt secret update does
for a secret.`,
		Example: `  redoubt config update site ./site.conf`,
		Args:    args(2, 2),
		RunE: func(c *cobra.Command, got []string) error {
			data, err := a.readConfig(got[1])
			if err != nil {
				return err
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.UpdateConfig(ctx, &controlpb.UpdateConfigRequest{Config: got[0], Data: data})
				if err == nil {
					a.printUpdated(r)
				}
				return err
			})
		},
	}
}

// readConfig reads as much as a config may hold.
func (a *app) readConfig(path string) (data []byte, err error) {
	var in io.Reader
	switch path {
	case "":
		return nil, usagef("the file's name is empty: name one, or - for standard input")
	case "-":
		in = a.Stdin
	default:
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	if data, err = io.ReadAll(io.LimitReader(in, maxConfig+1)); err != nil {
		return nil, fmt.Errorf("cannot read the config: %w", err)
	}
	switch {
	case len(data) > maxConfig:
		return nil, fmt.Errorf("the config is longer than %d bytes: split it, or put it into the image", maxConfig)
	case len(data) == 0:
		return nil, errors.New("the config is empty: give it data")
	}
	return data, nil
}

// configJSON is one config in `config ls --format json`.
type configJSON struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Size      uint64            `json:"size"`
	CreatedAt time.Time         `json:"created_at"`
	Current   uint64            `json:"current"`
	UpdatedAt time.Time         `json:"updated_at"`
	Labels    map[string]string `json:"labels"`
}

func (a *app) configLsCmd() *cobra.Command {
	var out output
	var filter filterFlag
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List configs",
		Example: `  redoubt config ls
  redoubt config ls --filter label=team=web --format '{{.Name}} {{.Size}}'`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				all, err := api.ListConfigs(ctx)
				if err != nil {
					return err
				}
				var ids []string
				objects := []configJSON{}
				var rows [][]string
				for _, v := range all {
					o := configJSON{v.GetId(), v.GetName(), v.GetSize(), utc(v.GetCreatedAt()), v.GetCurrent(), utc(v.GetCurrentAt()), v.GetLabels()}
					if !filter.begins("id", o.ID) || !filter.begins("name", o.Name) || !filter.label(o.Labels) {
						continue
					}
					ids, objects = append(ids, o.ID), append(objects, o)
					rows = append(rows, []string{out.id(o.ID), o.Name, fmt.Sprint(o.Current), units.BytesSize(float64(o.Size)), ago(o.UpdatedAt, time.Now()), ago(o.CreatedAt, time.Now())})
				}
				return out.list(a.Stdout, ids, objects, []string{"ID", "NAME", "VERSION", "SIZE", "CHANGED", "CREATED"}, rows)
			})
		},
	}
	out.flags(c, true)
	out.noTruncFlag(c)
	filter.add(c, "id", "name", "label")
	return c
}

func (a *app) configInspectCmd() *cobra.Command {
	var out output
	data := false
	c := &cobra.Command{
		Use: "inspect CONFIG...", Short: "Show configs with their data",
		Long: `inspect shows configs and their data. For programs, --data writes the data of one
config as it is, and --format json has it in base64.`,
		Example: `  redoubt config inspect site-v2
  redoubt config inspect --data site-v2 >site.conf`,
		Args: args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			if data && (len(names) != 1 || out.structured()) {
				return usagef("--data is for one config, and without --format")
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				// One by one: together they may be more than an answer holds.
				var all []*secretspb.Config
				for _, n := range names {
					r, err := api.GetConfigs(ctx, &controlpb.GetConfigsRequest{Configs: []string{n}})
					if err != nil {
						return err
					}
					all = append(all, r.GetConfigs()...)
				}
				switch {
				case out.structured():
					return printProtos(a.Stdout, &out, all)
				case data:
					_, err := a.Stdout.Write(all[0].GetSpec().GetData())
					return err
				}
				for i, v := range all {
					if i > 0 {
						fmt.Fprintln(a.Stdout)
					}
					printConfig(a.Stdout, v)
				}
				return nil
			})
		},
	}
	out.flags(c, false)
	c.Flags().BoolVar(&data, "data", false, "write the data alone, as it is")
	return c
}

func printConfig(w io.Writer, v *secretspb.Config) {
	field(w, "ID", v.GetId())
	field(w, "Name", v.GetSpec().GetName())
	field(w, "Labels", pairs(v.GetSpec().GetLabels()))
	field(w, "Created", time.Unix(0, v.GetMeta().GetCreatedAt()).UTC().Format(time.RFC3339))
	if v.GetSpec().GetTemplate() {
		field(w, "Template", "yes")
	}
	if err := printVersions(w, v.GetVersions(), v.GetCurrent(), v.GetSpec().GetKeep()); err != nil {
		return
	}
	data := v.GetSpec().GetData()
	field(w, "Size", units.BytesSize(float64(len(data))))
	if slices.Contains(data, 0) || !utf8.Valid(data) {
		field(w, "Data", "not text: use --data")
		return
	}
	fmt.Fprintf(w, "Data:\n%s", printableText(string(data)))
}

func (a *app) configRmCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rm CONFIG...", Aliases: []string{"remove"}, Short: "Remove configs",
		Example: `  redoubt config rm site-v1`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.each(c.Context(), names, func(ctx context.Context, api *api, n string) (string, error) {
				_, err := api.RemoveConfig(ctx, &controlpb.RemoveConfigRequest{Config: n})
				return n, err
			})
		},
	}
}
