package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/confine"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// updateFlags are those of service update alone: -add and -rm of every list.
type updateFlags struct {
	task                                taskFlags
	rollout                             rolloutFlags
	job                                 jobFlags
	placement                           placementFlags
	rollback                            bool
	confine                             confineFlags
	depends                             dependsFlags
	files                               fileFlags
	wait                                waitFlags
	image, args                         string
	replicas                            replicas
	maxPerNode                          uint32
	force                               bool
	envAdd, envRm, constraintAdd        []string
	constraintRm, labelAdd, labelRm     []string
	containerLabelAdd, containerLabelRm []string
	mountAdd                            mountList
	mountRm, publishRm                  []string
	publishAdd                          portList
	entryAdd, entryRm                   []string
	networkAdd, networkRm               []string
	networkIDs                          map[string]string // by how flags name them
	endpointMode                        string
	sign                                signFlags
}

func (a *app) serviceUpdateCmd() *cobra.Command {
	var u updateFlags
	c := &cobra.Command{
		Use:   "update [flags] SERVICE",
		Short: "Change a service",
		Long: `update changes what is named and keeps the rest. When the way tasks run changes,
they are replaced as --update-… say: one by one, unless they say otherwise, and
no more once one has failed. A new number of replicas only adds or removes some.
An update that was paused goes on with the same command again, or with none of
its flags; redoubt service rollback goes back. It waits until the service has
converged (--detach does not), and ends with exit code 3 where the update was
paused or rolled back.

A job that has no schedule runs anew when the way its tasks run changes, or how
many of them there are; one with a schedule is another from its next run on.`,
		Example: `  redoubt service update --image registry.example/web:2 web
  redoubt service update --env-add LEVEL=debug --publish-rm 80 web

  # Two at a time, new ones beside the old, and back if one in five fails
  redoubt service update --update-parallelism 2 --update-order start-first \
    --update-failure-action rollback --update-max-failure-ratio 0.2 \
    --image registry.example/web:3 web

  # Replace every task though nothing changed
  redoubt service update --force web`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, args []string) error { return a.runServiceUpdate(c, &u, args[0]) },
	}
	f := c.Flags()
	f.StringVar(&u.image, "image", "", "new image")
	f.StringVar(&u.args, "args", "", "new arguments, in one string")
	f.Var(&u.replicas, "replicas", "number of tasks; of a job: how many are to complete")
	f.Uint32Var(&u.maxPerNode, "replicas-max-per-node", 0, "most tasks of the service on one node; 0: no bound")
	f.BoolVar(&u.force, "force", false, "replace every task though nothing changed; a job without a schedule runs anew")
	for _, l := range []struct {
		to         *[]string
		name, help string
	}{
		{&u.envAdd, "env-add", "add or change an environment variable, NAME=value"},
		{&u.envRm, "env-rm", "remove an environment variable (NAME)"},
		{&u.constraintAdd, "constraint-add", "add a constraint"},
		{&u.constraintRm, "constraint-rm", "remove a constraint"},
		{&u.labelAdd, "label-add", "add or change a label of the service"},
		{&u.labelRm, "label-rm", "remove a label (key)"},
		{&u.containerLabelAdd, "container-label-add", "add or change a label of its containers"},
		{&u.containerLabelRm, "container-label-rm", "remove a container label (key)"},
		{&u.mountRm, "mount-rm", "remove the mount at this target path"},
		{&u.publishRm, "publish-rm", "stop publishing this target port, 80 or 80/udp"},
		{&u.entryAdd, "ingress-constraint-add", "add a constraint on the nodes that answer on its ports"},
		{&u.entryRm, "ingress-constraint-rm", "remove such a constraint"},
		{&u.networkAdd, "network-add", "NAME[,alias=…]: attach its tasks to a network, or change its aliases there"},
		{&u.networkRm, "network-rm", "take its tasks off a network"},
	} {
		f.StringArrayVar(l.to, l.name, nil, l.help)
	}
	f.StringVar(&u.endpointMode, "endpoint-mode", "", "vip or dnsrr, for services on networks")
	f.Var(&u.mountAdd, "mount-add", "add or replace a mount, written as --mount of service create")
	f.Var(&u.publishAdd, "publish-add", "add or replace a published port")
	u.files.add(f)
	f.BoolVar(&u.rollback, "rollback", false, "go back, as redoubt service rollback does")
	u.task.add(f)
	u.rollout.add(f)
	u.job.add(f)
	u.placement.add(f, true)
	u.confine.add(f, true)
	u.depends.add(f, true)
	u.sign.add(f)
	u.wait.add(f)
	return c
}

func (a *app) runServiceUpdate(c *cobra.Command, u *updateFlags, name string) error {
	nothing := onlyThese(c, "detach", "quiet", "timeout", "host")
	if u.rollback {
		if !onlyThese(c, append(signFlagNames(), "rollback", "detach", "quiet", "timeout", "host")...) {
			return usagef("--rollback goes back to what was: leave the other flags out")
		}
		return a.runRollback(c.Context(), name, 0, u.wait, &u.sign)
	}
	// The parts that need no service are checked before one is looked up.
	if err := u.apply(c, a.Getenv, blankSpec()); err != nil && exitCode(err) == ExitUsage {
		return err
	}
	sg, err := a.signer(&u.sign)
	if err != nil {
		return err
	}
	var id string
	err = a.within(c.Context(), resolveTimeout, func(ctx context.Context, api *api) (err error) {
		if nothing {
			if err := updateGoesOn(ctx, api, name); err != nil {
				return err
			}
		}
		if err := u.lookUpNetworks(ctx, api); err != nil {
			return err
		}
		if err := u.files.lookUp(ctx, api, sg != nil); err != nil {
			return err
		}
		id, err = a.changeService(ctx, api, name, sg, func(spec *schedulerpb.ServiceSpec) error {
			return u.apply(c, a.Getenv, spec)
		})
		if err == nil {
			fmt.Fprintln(a.Stdout, printable(id))
		}
		return err
	})
	if err != nil {
		return err
	}
	u.wait.follows = followsUpdate
	return a.converge(c.Context(), []string{id}, u.wait)
}

// blankSpec has all that a flag may be about.
func blankSpec() *schedulerpb.ServiceSpec {
	return &schedulerpb.ServiceSpec{
		Mode:     &schedulerpb.ServiceSpec_ReplicatedJob{ReplicatedJob: &schedulerpb.ReplicatedJob{}},
		Schedule: &schedulerpb.Schedule{Expression: "@daily"},
		Task:     &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{}},
	}
}

// changeService reads a service, changes its spec, and writes it at the version
// it was read at; a change by somebody else in between is tried over.
func (a *app) changeService(ctx context.Context, c *api, name string, sg *signer, change func(*schedulerpb.ServiceSpec) error) (string, error) {
	const attempts = 4
	for i := 1; ; i++ {
		l, err := c.ListServices(ctx, &controlpb.ListServicesRequest{Services: []string{name}})
		if err != nil {
			return "", err
		}
		if len(l.Services) != 1 {
			return "", apierr.NotFound("see `redoubt service ls`", "no service %q", name)
		}
		s := l.Services[0].Service
		was := proto.CloneOf(s.Spec)
		if err := change(s.Spec); err != nil {
			if exitCode(err) == ExitUsage {
				return "", err
			}
			return "", failf(ExitError, "%v", err)
		}
		req := &controlpb.UpdateServiceRequest{Service: s.Id, Version: s.GetMeta().GetVersion(), Spec: s.Spec}
		switch {
		case sg != nil:
			err = sg.update(ctx, c, name, req, was, s.Signed)
		case proto.Equal(was.Task, s.Spec.Task) && maps.Equal(was.Labels, s.Spec.Labels):
			req.Signed = s.Signed // it may be good for another number of replicas
		}
		if err != nil {
			return "", err
		}
		r, err := c.UpdateService(ctx, req)
		if err == nil {
			a.warn(r.Warnings)
			return s.Id, nil
		}
		if apierr.Decode(err).Reason != apierr.ReasonConflict || i == attempts {
			return "", err
		}
	}
}

// apply changes spec by the flags that were given.
func (u *updateFlags) apply(c *cobra.Command, getenv func(string) string, spec *schedulerpb.ServiceSpec) (err error) {
	task := spec.Task
	looked := confine.Templated(task.Container)
	if err := u.task.apply(c.Flags(), task); err != nil {
		return err
	}
	if err := u.rollout.apply(c.Flags(), spec); err != nil {
		return err
	}
	if err := u.job.apply(c.Flags(), spec); err != nil {
		return err
	}
	if err := u.placement.apply(c.Flags(), spec); err != nil {
		return err
	}
	if err := u.confine.apply(task.Container); err != nil {
		return err
	}
	u.depends.apply(task)
	if u.replicas.set {
		if err := resize(spec, u.replicas.n); err != nil {
			return err
		}
	}
	if c.Flags().Changed("image") {
		if err := checkImage(u.image); err != nil {
			return err
		}
		task.Container.Image, task.Container.Digest = u.image, "" // resolved anew
	}
	if c.Flags().Changed("args") {
		if task.Container.Args, err = words(u.args); err != nil {
			return usagef("--args: %v", err)
		}
	}
	if c.Flags().Changed("replicas-max-per-node") {
		task.MaxPerNode = u.maxPerNode
	}
	if u.force {
		task.Force++
	}
	if spec.Labels, err = changeMap("--label", spec.Labels, u.labelAdd, u.labelRm); err != nil {
		return err
	}
	if task.Container.Labels, err = changeMap("--container-label", task.Container.Labels, u.containerLabelAdd, u.containerLabelRm); err != nil {
		return err
	}
	if task.Container.Env, err = changeEnv(task.Container.Env, u.envAdd, u.envRm, getenv); err != nil {
		return err
	}
	task.Constraints = changeList(task.Constraints, u.constraintAdd, u.constraintRm)
	spec.IngressConstraints = changeList(spec.IngressConstraints, u.entryAdd, u.entryRm)
	u.changeMounts(task.Container)
	confine.MarkTemplated(task.Container, looked)
	if err := u.files.apply(task.Container); err != nil {
		return err
	}
	if err := u.changeNetworks(c, spec); err != nil {
		return err
	}
	if err := u.changePorts(task); err != nil {
		return err
	}
	// What says who answers goes with the last port that there is an answer on.
	if len(u.entryAdd) == 0 && !slices.ContainsFunc(task.Ports, func(p *taskpb.Port) bool { return p.Mode == taskpb.Port_MODE_INGRESS }) {
		spec.IngressConstraints = nil
	}
	return nil
}

func changeList(list, add, rm []string) []string {
	list = slices.DeleteFunc(list, func(s string) bool { return slices.Contains(rm, s) })
	for _, s := range add {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

func (u *updateFlags) changeMounts(c *taskpb.ContainerSpec) {
	c.Mounts = slices.DeleteFunc(c.Mounts, func(m *taskpb.Mount) bool {
		return slices.Contains(u.mountRm, m.Target) || slices.ContainsFunc(u.mountAdd, func(n *taskpb.Mount) bool { return n.Target == m.Target })
	})
	c.Mounts = append(c.Mounts, u.mountAdd...)
}

func (u *updateFlags) changePorts(t *taskpb.TaskSpec) error {
	for _, s := range u.publishRm {
		num, proto, _ := strings.Cut(s, "/")
		target, err := portNumber(num)
		if err != nil {
			return usagef("--publish-rm: %v", err)
		}
		pr, err := protocol(proto)
		if err != nil {
			return usagef("--publish-rm: %v", err)
		}
		t.Ports = slices.DeleteFunc(t.Ports, func(p *taskpb.Port) bool {
			return p.Target == target && (proto == "" || max(p.Protocol, taskpb.Port_PROTOCOL_TCP) == pr)
		})
	}
	t.Ports = slices.DeleteFunc(t.Ports, func(p *taskpb.Port) bool {
		return slices.ContainsFunc(u.publishAdd, func(n *taskpb.Port) bool { return samePort(n, p) })
	})
	t.Ports = append(t.Ports, u.publishAdd...)
	return nil
}

func changeMap(flag string, m map[string]string, add, rm []string) (map[string]string, error) {
	added, err := keyValues(flag+"-add", add)
	if err != nil {
		return nil, err
	}
	m = maps.Clone(m)
	for _, k := range rm {
		if _, both := added[k]; both {
			return nil, usagef("%s %q is added and removed in one command", flag, k)
		}
		delete(m, k)
	}
	if len(added) > 0 && m == nil {
		m = map[string]string{}
	}
	maps.Copy(m, added)
	return m, nil
}

func changeEnv(env, add, rm []string, getenv func(string) string) ([]string, error) {
	for _, n := range rm {
		if strings.Contains(n, "=") {
			return nil, usagef("--env-rm takes a name, without %s", strconv.Quote("="))
		}
		env = slices.DeleteFunc(env, func(s string) bool { k, _, _ := strings.Cut(s, "="); return k == n })
	}
	return environment(nil, append(slices.Clone(env), add...), getenv)
}
