package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	secretspec "github.com/redoubt-cluster/redoubt/secrets/spec"
)

// secretJSON is one secret in `secret ls --format json`.
type secretJSON struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Kind      string            `json:"kind"`
	Current   uint64            `json:"current"`
	Versions  int               `json:"versions"`
	Size      uint64            `json:"size"`
	CreatedAt time.Time         `json:"created_at"`
	UpdatedAt time.Time         `json:"updated_at"`
	Labels    map[string]string `json:"labels"`
}

// currentOf is what is known of a secret's current version.
func currentOf(s *secretspb.Secret) *secretspb.VersionFacts {
	for _, v := range s.GetVersions() {
		if v.GetNumber() == s.GetCurrent() {
			return v
		}
	}
	return nil
}

func utc(nanos int64) time.Time { return time.Unix(0, nanos).UTC() }

func (a *app) secretLsCmd() *cobra.Command {
	var out output
	var filter filterFlag
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List secrets, and how old their data is",
		Example: `  redoubt secret ls
  redoubt secret ls --filter label=team=web --format '{{.Name}} {{.Current}} {{.UpdatedAt}}'`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				all, err := api.ListSecrets(ctx, nil)
				if err != nil {
					return err
				}
				var ids []string
				objects := []secretJSON{}
				var rows [][]string
				for _, s := range all {
					v := currentOf(s)
					o := secretJSON{s.GetId(), s.GetSpec().GetName(), enumName(s.GetSpec().GetKind(), "SECRET_KIND_"), s.GetCurrent(), len(s.GetVersions()),
						v.GetSize(), utc(s.GetMeta().GetCreatedAt()), utc(v.GetCreatedAt()), s.GetSpec().GetLabels()}
					if !filter.begins("id", o.ID) || !filter.begins("name", o.Name) || !filter.label(o.Labels) {
						continue
					}
					ids, objects = append(ids, o.ID), append(objects, o)
					rows = append(rows, []string{out.id(o.ID), o.Name, o.Kind, fmt.Sprint(o.Current), units.BytesSize(float64(o.Size)), ago(o.UpdatedAt, time.Now()), ago(o.CreatedAt, time.Now())})
				}
				return out.list(a.Stdout, ids, objects, []string{"ID", "NAME", "KIND", "VERSION", "SIZE", "CHANGED", "CREATED"}, rows)
			})
		},
	}
	out.flags(c, true)
	out.noTruncFlag(c)
	filter.add(c, "id", "name", "label")
	return c
}

func (a *app) secretInspectCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "inspect SECRET...", Short: "Show what is known of secrets, which is not what they hold",
		Example: `  redoubt secret inspect db-password`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				all, err := api.ListSecrets(ctx, names)
				if err != nil {
					return err
				}
				if out.structured() {
					return printProtos(a.Stdout, &out, all)
				}
				for i, s := range all {
					if i > 0 {
						fmt.Fprintln(a.Stdout)
					}
					field(a.Stdout, "ID", s.GetId())
					field(a.Stdout, "Name", s.GetSpec().GetName())
					field(a.Stdout, "Kind", enumName(s.GetSpec().GetKind(), "SECRET_KIND_"))
					field(a.Stdout, "Labels", pairs(s.GetSpec().GetLabels()))
					field(a.Stdout, "Created", utc(s.GetMeta().GetCreatedAt()).Format(time.RFC3339))
					if err := printVersions(a.Stdout, s.GetVersions(), s.GetCurrent(), s.GetSpec().GetKeep()); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	out.flags(c, false)
	return c
}

// printVersions lists the versions of a secret or config.
func printVersions(w io.Writer, versions []*secretspb.VersionFacts, current uint64, keep uint32) error {
	field(w, "Keeps", fmt.Sprintf("%d versions", cmp.Or(keep, secretspec.DefaultKeep)))
	var rows [][]string
	for _, v := range versions {
		mark := ""
		if v.GetNumber() == current {
			mark = "current"
		}
		rows = append(rows, []string{fmt.Sprint(v.GetNumber()), mark, units.BytesSize(float64(v.GetSize())), ago(utc(v.GetCreatedAt()), time.Now())})
	}
	return table(w, []string{"VERSION", "STATE", "SIZE", "CREATED"}, rows)
}

// grantsCmd is for secrets and for configs.
func (a *app) grantsCmd(config bool) *cobra.Command {
	what, upper, example := "secret", "SECRET", "db-password"
	if config {
		what, upper, example = "config", "CONFIG", "site"
	}
	var out output
	c := &cobra.Command{
		Use: "grants " + upper, Short: "Show who may read a " + what + ", and where it is now",
		Long: `grants lists the services that name it, each task that has it or is to get it with
its node and the version that it has there by that node's word, and for a secret
the managers, whose keyd can open it while it is unlocked. Nobody else can. A node
that was lost may have it still, until it is heard of again.`,
		Example: fmt.Sprintf("  redoubt %s grants %s", what, example),
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, got []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.FileGrants(ctx, &controlpb.FileGrantsRequest{Name: got[0], Config: config})
				if err != nil {
					return err
				}
				if out.structured() {
					return printProtos(a.Stdout, &out, []*controlpb.FileGrantsResponse{r})
				}
				return printGrants(a.Stdout, r, config)
			})
		},
	}
	out.flags(c, false)
	return c
}

func printGrants(w io.Writer, r *controlpb.FileGrantsResponse, config bool) error {
	field(w, "Name", r.GetName())
	field(w, "Current", fmt.Sprintf("version %d", r.GetCurrent()))
	if len(r.GetServices()) == 0 {
		field(w, "Services", "none names it")
	} else {
		var rows [][]string
		for _, g := range r.GetServices() {
			name := cmp.Or(g.GetName(), shortID(g.GetId())+" (removed)")
			if g.GetFormer() && g.GetName() != "" {
				name += " (tasks of before)"
			}
			rows = append(rows, append([]string{name}, useCells(g.GetUse(), config)...))
		}
		if err := table(w, []string{"SERVICE", "AT", "OWNER", "MODE", "VERSION", "ON UPDATE"}, rows); err != nil {
			return err
		}
	}
	if len(r.GetHolders()) > 0 {
		var rows [][]string
		for _, h := range r.GetHolders() {
			task := cmp.Or(h.GetServiceName(), shortID(h.GetServiceId()))
			if h.GetSlot() > 0 {
				task += fmt.Sprintf(".%d", h.GetSlot())
			}
			has := "none yet"
			switch {
			case h.GetVersion() > 0:
				has = fmt.Sprint(h.GetVersion())
			case h.GetRemoved():
				has = "a removed one"
			}
			if h.GetLost() {
				has += " (node lost)"
			}
			rows = append(rows, []string{task, shortID(h.GetTaskId()), cmp.Or(h.GetNodeName(), h.GetNodeId(), "none yet"), has})
		}
		if err := table(w, []string{"TASK", "ID", "NODE", "HAS VERSION"}, rows); err != nil {
			return err
		}
	}
	if !config {
		field(w, "Managers", strings.Join(r.GetManagers(), ", "))
	}
	return nil
}

func useCells(u *taskpb.FileUse, config bool) []string {
	mode, version := u.GetMode(), "current"
	if mode == 0 && config {
		mode = 0o444
	} else if mode == 0 {
		mode = 0o400
	}
	if u.GetVersion() > 0 {
		version = fmt.Sprint(u.GetVersion())
	}
	at := filePath(u, config)
	if at == "" {
		return []string{"the image's registry", "", "", version, ""}
	}
	on := enumName(u.GetOnUpdate(), "ON_UPDATE_")
	if u.GetSignal() != "" {
		on = u.GetSignal()
	}
	return []string{at, fmt.Sprintf("%d:%d", u.GetUid(), u.GetGid()), fmt.Sprintf("%04o", mode), version, on}
}
