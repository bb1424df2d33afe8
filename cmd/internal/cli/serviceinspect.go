package cli

import (
	"context"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func (a *app) serviceInspectCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "inspect SERVICE...", Short: "Show services as the cluster keeps them",
		Example: `  redoubt service inspect web
  redoubt service inspect --format json web`,
		Args: args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListServices(ctx, &controlpb.ListServicesRequest{Services: names})
				if err != nil {
					return err
				}
				if out.structured() {
					return printProtos(a.Stdout, &out, r.Services)
				}
				for i, v := range r.Services {
					if i > 0 {
						fmt.Fprintln(a.Stdout)
					}
					printService(a.Stdout, v)
				}
				return nil
			})
		},
	}
	out.flags(c, false)
	return c
}

func printService(w io.Writer, v *controlpb.ServiceView) {
	s := newServiceJSON(v)
	sp := v.GetService().GetSpec()
	t, c := sp.GetTask(), sp.GetTask().GetContainer()
	field(w, "ID", s.ID)
	field(w, "Name", s.Name)
	field(w, "Mode", fmt.Sprintf("%s, %d of %d running", s.Mode, s.Running, s.Wanted))
	if v.Held > 0 {
		field(w, "Held back", fmt.Sprintf("%d: %s", v.Held, printable(v.HeldReason)))
	}
	field(w, "Revision", fmt.Sprint(v.GetService().GetRevision()))
	field(w, "Specification", fmt.Sprint(max(1, v.GetService().GetSpecNumber())))
	if spec.IsJob(sp) {
		field(w, "Run", runText(spec.NewestRun(v.GetRuns())))
		field(w, "Concurrent", concurrentText(sp))
		field(w, "Schedule", scheduleText(sp.GetSchedule()))
		field(w, "Next run", nextText(v.GetService()))
	} else {
		field(w, "Update", statusText(v.GetService().GetUpdateStatus()))
		field(w, "Updates", configText(sp.GetUpdate()))
		field(w, "Rollbacks", configText(sp.GetRollback()))
	}
	field(w, "Labels", pairs(sp.GetLabels()))
	field(w, "Image", c.GetImage())
	field(w, "Digest", c.GetDigest())
	field(w, "Entrypoint", strings.Join(c.GetCommand(), " "))
	field(w, "Args", strings.Join(c.GetArgs(), " "))
	var names []string
	for _, e := range c.GetEnv() { // names alone: people put secrets there
		n, _, _ := strings.Cut(e, "=")
		names = append(names, n)
	}
	field(w, "Env", strings.Join(names, ", "))
	field(w, "User", c.GetUser())
	var ports []string
	for _, p := range t.GetPorts() {
		ports = append(ports, portDetail(p))
	}
	field(w, "Ports", strings.Join(ports, ", "))
	field(w, "Entry nodes", strings.Join(sp.GetIngressConstraints(), ", "))
	for _, n := range v.GetNetworks() {
		field(w, "Network", networkText(n))
	}
	if len(v.GetNetworks()) > 0 {
		field(w, "Endpoint mode", enumName(sp.GetEndpointMode(), "ENDPOINT_MODE_"))
	}
	for _, m := range c.GetMounts() {
		field(w, "Mount", mountString(m))
	}
	for _, u := range c.GetSecrets() {
		field(w, "Secret", fileUseText(u, false))
	}
	for _, u := range c.GetConfigs() {
		field(w, "Config", fileUseText(u, true))
	}
	field(w, "Registry auth", c.GetRegistryAuth())
	for _, l := range confineFields(c) {
		field(w, l[0], l[1])
	}
	field(w, "Depends on", dependencies(t.GetDependsOn()))
	field(w, "Constraints", strings.Join(t.GetConstraints(), ", "))
	for _, l := range placementFields(sp) {
		field(w, l[0], l[1])
	}
	field(w, "Moves", movesText(v.GetService().GetRebalanceStatus()))
	field(w, "Limits", resources(t.GetLimits()))
	field(w, "Reserved", resources(t.GetReservations()))
}

func mountString(m *taskpb.Mount) string {
	s := enumName(m.Type, "TYPE_") + " " + m.Target
	if m.Source != "" {
		s += " from " + m.Source
	}
	if u := m.GetVolume(); u != nil {
		s += " from " + path.Join(u.GetName(), u.GetSubpath())
	}
	if m.ReadOnly {
		s += " (read-only)"
	}
	return s
}

func resources(r *taskpb.Resources) string {
	var s []string
	if r.GetNanoCpus() != 0 {
		s = append(s, fmt.Sprintf("%g CPUs", float64(r.NanoCpus)/1e9))
	}
	if r.GetMemoryBytes() != 0 {
		s = append(s, units.BytesSize(float64(r.MemoryBytes))+" memory")
	}
	if r.GetPids() != 0 {
		s = append(s, fmt.Sprintf("%d processes", r.Pids))
	}
	return strings.Join(s, ", ")
}
