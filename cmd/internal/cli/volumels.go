package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
)

// volumeJSON is one volume in `volume ls --format json`.
type volumeJSON struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Driver string `json:"driver"`
	Size   int64  `json:"size"` // bytes that it is bounded to; 0: none
	State  string `json:"state"`
	// Nodes have data of it, by their own word.
	Nodes   []string          `json:"nodes"`
	Created time.Time         `json:"created_at"`
	Labels  map[string]string `json:"labels"`
}

// States of a volume as they are listed.
const (
	volumeUsed     = "used"
	volumeUnused   = "unused"
	volumeRemoving = "removing"
)

func volumeState(v *controlpb.VolumeDetail) string {
	switch {
	case v.GetVolume().GetRemovingSince() != 0:
		return volumeRemoving
	case len(v.GetServices()) > 0 || v.GetTasks() > 0:
		return volumeUsed
	}
	return volumeUnused
}

func volumeView(v *controlpb.VolumeDetail) volumeJSON {
	sp := v.GetVolume().GetSpec()
	options, _ := volumes.Parse(sp) // what a newer manager stores has no size here
	on := append(append([]string{}, nodesOf(v, false)...), nodesOf(v, true)...)
	slices.Sort(on)
	return volumeJSON{v.GetVolume().GetId(), sp.GetName(), sp.GetDriver(), options.Size, volumeState(v), on, utc(v.GetVolume().GetMeta().GetCreatedAt()), sp.GetLabels()}
}

func (o *volumeJSON) cells(out *output) []string {
	size := "" // no bound
	if o.Size > 0 {
		size = units.BytesSize(float64(o.Size))
	}
	return []string{out.id(o.ID), o.Name, o.Driver, size, o.State, few(o.Nodes), ago(o.Created, time.Now())}
}

var volumeHead = []string{"ID", "NAME", "DRIVER", "SIZE", "STATE", "NODES", "CREATED"}

func (a *app) volumeLsCmd() *cobra.Command {
	var out output
	var filter filterFlag
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List volumes, and which nodes have data of them",
		Long: `ls lists volumes. STATE is used where a service names it or a task has it, unused
where neither does, and removing while nodes have yet to delete its data.`,
		Example: `  redoubt volume ls
  redoubt volume ls --filter state=unused --format '{{.Name}} {{.Nodes}}'`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				all, err := api.ListVolumes(ctx, nil)
				if err != nil {
					return err
				}
				var ids []string
				objects := []volumeJSON{}
				var rows [][]string
				for _, v := range all {
					o := volumeView(v)
					if !filter.begins("id", o.ID) || !filter.begins("name", o.Name) || !filter.is("driver", o.Driver) || !filter.is("state", o.State) || !filter.label(o.Labels) ||
						!filter.any("node", o.Nodes) {
						continue
					}
					ids, objects, rows = append(ids, o.ID), append(objects, o), append(rows, o.cells(&out))
				}
				return out.list(a.Stdout, ids, objects, volumeHead, rows)
			})
		},
	}
	out.flags(c, true)
	out.noTruncFlag(c)
	filter.add(c, "id", "name", "driver", "label", "node", "state="+strings.Join([]string{volumeUsed, volumeUnused, volumeRemoving}, "|"))
	return c
}

func (a *app) volumeInspectCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "inspect VOLUME...", Short: "Show volumes, who uses them and where their data is",
		Example: `  redoubt volume inspect db`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				all, err := api.ListVolumes(ctx, names)
				if err != nil {
					return err
				}
				if out.structured() {
					return printProtos(a.Stdout, &out, all)
				}
				for i, v := range all {
					if i > 0 {
						fmt.Fprintln(a.Stdout)
					}
					printVolume(a.Stdout, v)
				}
				return nil
			})
		},
	}
	out.flags(c, false)
	return c
}

func printVolume(w io.Writer, v *controlpb.VolumeDetail) {
	sp := v.GetVolume().GetSpec()
	field(w, "ID", v.GetVolume().GetId())
	field(w, "Name", sp.GetName())
	field(w, "Labels", pairs(sp.GetLabels()))
	field(w, "Created", utc(v.GetVolume().GetMeta().GetCreatedAt()).Format(time.RFC3339))
	field(w, "Driver", sp.GetDriver())
	field(w, "Options", pairs(sp.GetOptions()))
	field(w, "State", volumeState(v))
	field(w, "Services", strings.Join(v.GetServices(), ", "))
	field(w, "Tasks", fmt.Sprint(v.GetTasks()))
	for _, n := range v.GetNodes() {
		text := nodeLabel(n.GetNodeName(), n.GetNodeId()) + ", since " + utc(n.GetInstance().GetCreatedAt()).Format(time.RFC3339)
		if n.GetAway() {
			text += ", not heard of now"
		}
		field(w, "Data on", text)
	}
}
