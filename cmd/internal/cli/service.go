package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/confine"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func (a *app) serviceCmd() *cobra.Command {
	c := &cobra.Command{Use: "service", Short: "Run containers and keep them running"}
	group(c)
	c.AddCommand(a.serviceCreateCmd(), a.serviceLsCmd(), a.servicePsCmd(), a.serviceInspectCmd(),
		a.serviceUpdateCmd(), a.serviceRollbackCmd(), a.serviceHistoryCmd(), a.serviceRebalanceCmd(), a.serviceScaleCmd(), a.serviceRmCmd(), a.serviceLogsCmd(), a.serviceEventsCmd(), a.serviceExecCmd(), a.serviceExplainCmd(),
		a.serviceRunCmd(), a.serviceRunsCmd(), a.serviceSuspendCmd(), a.serviceResumeCmd())
	return c
}

// createFlags are those of service create alone.
type createFlags struct {
	task                    taskFlags
	rollout                 rolloutFlags
	job                     jobFlags
	placement               placementFlags
	confine                 confineFlags
	depends                 dependsFlags
	host                    hostFlag
	wait                    waitFlags
	name, mode              string
	replicas                replicas
	env, envFile            []string
	mounts                  mountList
	secrets, configs        fileUseList
	ports                   portList
	constraints, entries    []string
	maxPerNode              uint32
	labels, containerLabels []string
	networks                []string
	endpointMode            string
	sign                    signFlags
}

func (a *app) serviceCreateCmd() *cobra.Command {
	var cf createFlags
	c := &cobra.Command{
		Use:   "create [flags] IMAGE [ARG...]",
		Short: "Make a service",
		Long: `create makes a service: an image, run as many times as asked, kept running for
ever. The image's digest is resolved once, now, and every task runs exactly
that. It waits until the tasks run (--detach does not).

A job comes to its end: with --mode replicated-job when --replicas of its tasks
have completed, with --mode global-job when one has on each node. create waits
for that, and ends with exit code 3 where it failed. With --schedule a job runs
when that says, and there is nothing to wait for.

Environment variables are not for secrets: they can be read on the nodes that
run the tasks.`,
		Example: `  redoubt service create --name web --replicas 3 \
    --publish 8080:80 registry.example/web:1

  redoubt service create --name probe --mode global --read-only \
    --mount type=tmpfs,target=/tmp,tmpfs-size=16m --limit-memory 64m \
    --constraint node.labels.disk==ssd registry.example/probe:1 --verbose

  # Ten times, two at a time; and every night
  redoubt service create --name import --mode replicated-job --replicas 10 \
    --max-concurrent 2 registry.example/import:1
  redoubt service create --name backup --mode replicated-job \
    --schedule "30 2 * * *" --time-zone Europe/Berlin registry.example/backup:1

  # Data that its tasks find again: the volume is made where it is not there
  redoubt service create --name db --volume db:/var/lib/db registry.example/db:1`,
		Args: args(1, -1),
		RunE: func(c *cobra.Command, args []string) error {
			spec, err := a.createSpec(c, &cf, args)
			if err != nil {
				return err
			}
			return a.runServiceCreate(c.Context(), spec, cf.wait, &cf.sign)
		},
	}
	f := c.Flags()
	f.SetInterspersed(false) // what follows the image is its arguments
	f.StringVar(&cf.name, "name", "", "name of the service (default: made from the image's)")
	f.StringVar(&cf.mode, "mode", "replicated", "replicated or global, and for what comes to its end replicated-job or global-job")
	f.Var(&cf.replicas, "replicas", "number of tasks; of a job: how many are to complete (default 1)")
	f.StringArrayVarP(&cf.env, "env", "e", nil, "environment variable, NAME=value")
	f.StringArrayVar(&cf.envFile, "env-file", nil, "file of environment variables")
	f.Var(&cf.mounts, "mount", "[type=volume,]source=NAME,target=…, type=bind,source=/…,target=…, or type=tmpfs,target=…; with readonly, volume-opt=size=…, volume-label=…, volume-nocopy, volume-subpath=…, tmpfs-size=…, tmpfs-mode=…")
	f.VarP(volumeFlag{&cf.mounts}, "volume", "v", "NAME:PATH[:ro], a volume, or DIRECTORY:PATH[:ro] of the node")
	f.Var(&cf.secrets, "secret", "secret that its tasks may read, at /run/secrets: "+fileUseHelp)
	f.Var(&cf.configs, "config", "config that its tasks get, at /run/configs: "+fileUseHelp)
	f.VarP(&cf.ports, "publish", "p", "8080:80, or published=8080,target=80[,protocol=udp][,mode=host][,host_ip=…][,prefer-local][,proxy-protocol=v2]")
	f.StringArrayVar(&cf.entries, "ingress-constraint", nil, "which nodes answer on ports of mode ingress, as node.labels.edge==true (default: all)")
	f.Uint32Var(&cf.maxPerNode, "replicas-max-per-node", 0, "most tasks of the service on one node; 0: no bound")
	f.StringArrayVar(&cf.constraints, "constraint", nil, "where tasks may run, as node.labels.disk==ssd")
	f.StringArrayVarP(&cf.labels, "label", "l", nil, "label of the service")
	f.StringArrayVar(&cf.containerLabels, "container-label", nil, "label of its containers")
	f.StringArrayVar(&cf.networks, "network", nil, "NAME[,alias=…]: attach its tasks to a network")
	f.StringVar(&cf.endpointMode, "endpoint-mode", "", "vip or dnsrr, for services on networks")
	cf.task.add(f)
	cf.rollout.add(f)
	cf.job.add(f)
	cf.placement.add(f, false)
	cf.confine.add(f, false)
	cf.depends.add(f, false)
	cf.host.socket = &a.host
	f.VarP(&cf.host, "host", "H", "NAME:ADDRESS, one more line of its /etc/hosts; or the node's socket, unix:///path/api.sock")
	cf.sign.add(f)
	cf.wait.add(f)
	return c
}

func (a *app) createSpec(c *cobra.Command, cf *createFlags, args []string) (*schedulerpb.ServiceSpec, error) {
	image := args[0]
	if err := checkImage(image); err != nil {
		return nil, err
	}
	spec := &schedulerpb.ServiceSpec{
		Name: cf.name,
		Task: &taskpb.TaskSpec{
			Container:   &taskpb.ContainerSpec{Image: image, Args: args[1:], Mounts: cf.mounts, Secrets: cf.secrets, Configs: cf.configs},
			Ports:       cf.ports,
			Constraints: cf.constraints, MaxPerNode: cf.maxPerNode,
		},
		IngressConstraints: cf.entries,
	}
	// An empty --name is a script's variable that was not set, and would make
	// one more service each time it runs.
	if spec.Name == "" && !c.Flags().Changed("name") {
		spec.Name = nameFrom(image)
	}
	if err := ident.CheckName(spec.Name); err != nil {
		return nil, usagef("--name: %v", err)
	}
	if err := networkFlags(spec, cf.networks, cf.endpointMode); err != nil {
		return nil, err
	}
	var count *uint64
	if cf.replicas.set {
		count = &cf.replicas.n
	}
	if err := modeOf(cf.mode, count, spec); err != nil {
		return nil, err
	}
	if err := cf.job.apply(c.Flags(), spec); err != nil {
		return nil, err
	}
	var err error
	if spec.Labels, err = keyValues("--label", cf.labels); err != nil {
		return nil, err
	}
	if spec.Task.Container.Labels, err = keyValues("--container-label", cf.containerLabels); err != nil {
		return nil, err
	}
	if spec.Task.Container.Env, err = environment(cf.envFile, cf.env, a.Getenv); err != nil {
		return nil, err
	}
	if err := cf.rollout.apply(c.Flags(), spec); err != nil {
		return nil, err
	}
	if err := cf.placement.apply(c.Flags(), spec); err != nil {
		return nil, err
	}
	if err := cf.task.apply(c.Flags(), spec.Task); err != nil {
		return nil, err
	}
	cf.depends.apply(spec.Task)
	cf.confine.hosts = cf.host.lines
	if err := cf.confine.apply(spec.Task.Container); err != nil {
		return nil, err
	}
	confine.MarkTemplated(spec.Task.Container, false)
	return spec, nil
}

// checkImage catches a misplaced flag or an empty name; the rest of the
// grammar is the server's.
func checkImage(image string) error {
	if image == "" || strings.HasPrefix(image, "-") || strings.ContainsAny(image, " \t\n") {
		return usagef("%q is no image: write it as registry.example/web:1", image)
	}
	return nil
}

// nameFrom makes a service name out of an image's.
func nameFrom(image string) string {
	base, _, _ := strings.Cut(image, "@")
	base = base[strings.LastIndexByte(base, '/')+1:]
	base, _, _ = strings.Cut(base, ":")
	base = strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(base))
	base = strings.Trim(base[:min(len(base), 40)], "-")
	if base == "" {
		base = "service"
	}
	return base + "-" + ident.New()[:6]
}

func (a *app) runServiceCreate(ctx context.Context, spec *schedulerpb.ServiceSpec, w waitFlags, sf *signFlags) error {
	sg, err := a.signer(sf)
	if err != nil {
		return err
	}
	var id string
	err = a.within(ctx, resolveTimeout, func(ctx context.Context, c *api) error {
		req := &controlpb.CreateServiceRequest{Spec: spec}
		if sg != nil {
			if err := sg.create(ctx, c, req); err != nil {
				return err
			}
		}
		r, err := c.CreateService(ctx, req)
		if err != nil {
			return err
		}
		a.warn(r.Warnings)
		id = r.Id
		fmt.Fprintln(a.Stdout, printable(id))
		return nil
	})
	if err != nil {
		return err
	}
	return a.converge(ctx, []string{id}, w)
}

func (a *app) warn(ws []string) {
	for _, w := range ws {
		fmt.Fprintf(a.Stderr, "redoubt: warning: %s\n", printable(w))
	}
}

func (a *app) serviceScaleCmd() *cobra.Command {
	var w waitFlags
	var sf signFlags
	c := &cobra.Command{
		Use: "scale SERVICE=REPLICAS...", Short: "Change how often services run",
		Example: `  redoubt service scale web=5
  redoubt service scale web=5 api=2`,
		Args: args(1, -1),
		RunE: func(c *cobra.Command, args []string) error {
			names, counts, err := scaleArgs(args)
			if err != nil {
				return err
			}
			return a.runScale(c.Context(), names, counts, w, &sf)
		},
	}
	w.add(c.Flags())
	sf.add(c.Flags())
	return c
}

func scaleArgs(args []string) (names []string, counts []uint64, err error) {
	for _, arg := range args {
		name, n, ok := strings.Cut(arg, "=")
		if !ok || name == "" {
			return nil, nil, usagef("%q: write SERVICE=REPLICAS, as web=5", arg)
		}
		count, err := replicaCount(n)
		if err != nil {
			return nil, nil, usagef("%s: %v", name, err)
		}
		if slices.Contains(names, name) {
			return nil, nil, usagef("%s is given twice", name)
		}
		names, counts = append(names, name), append(counts, count)
	}
	return names, counts, nil
}

func (a *app) runScale(ctx context.Context, names []string, counts []uint64, w waitFlags, sf *signFlags) error {
	sg, err := a.signer(sf)
	if err != nil {
		return err
	}
	var ids []string
	err = a.with(ctx, func(ctx context.Context, c *api) error {
		for i, name := range names {
			id, err := a.changeService(ctx, c, name, sg, func(spec *schedulerpb.ServiceSpec) error {
				return resize(spec, counts[i])
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Stdout, "%s scaled to %d\n", printable(name), counts[i])
			ids = append(ids, id)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return a.converge(ctx, ids, w)
}

func (a *app) serviceRmCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rm SERVICE...", Aliases: []string{"remove"}, Short: "Remove services and stop their tasks",
		Example: `  redoubt service rm web`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.each(c.Context(), names, func(ctx context.Context, api *api, n string) (string, error) {
				_, err := api.RemoveService(ctx, &controlpb.RemoveServiceRequest{Service: n})
				return n, err
			})
		},
	}
}
