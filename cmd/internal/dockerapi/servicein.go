package dockerapi

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/confine"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// serviceSpec is a service as clients write it.
type serviceSpec struct {
	swarm.ServiceSpec
	// Networks stood here once, and old clients still write it.
	Networks []swarm.NetworkAttachmentConfig
}

// fromService translates a whole specification. base is the service as it is, nil for a
// new one: what Docker has no word for stays as it was there. in is used up.
func fromService(in *serviceSpec, base *schedulerpb.ServiceSpec) (*schedulerpb.ServiceSpec, error) {
	out := proto.CloneOf(base)
	if out == nil {
		out = &schedulerpb.ServiceSpec{}
	}
	if out.Task == nil {
		out.Task = &taskpb.TaskSpec{}
	}
	out.Name, out.Labels = take(&in.Name), take(&in.Labels)
	if err := fromMode(&in.Mode, out); err != nil {
		return nil, err
	}
	if len(in.TaskTemplate.Networks) == 0 {
		in.TaskTemplate.Networks = in.Networks
	}
	in.Networks = nil
	if err := fromTask(&in.TaskTemplate, out.Task); err != nil {
		return nil, err
	}
	if err := fromEndpoint(in.EndpointSpec, out); err != nil {
		return nil, err
	}
	out.Update, out.Rollback = fromUpdate(in.UpdateConfig), fromUpdate(in.RollbackConfig)
	return out, untranslated("", in)
}

func fromTask(in *swarm.TaskSpec, t *taskpb.TaskSpec) error {
	c := in.ContainerSpec
	switch {
	case in.PluginSpec != nil || in.NetworkAttachmentSpec != nil || in.Runtime != "" && in.Runtime != swarm.RuntimeContainer:
		return notHere("TaskTemplate.Runtime: tasks are containers here, and nothing else")
	case c == nil:
		return badRequest("TaskTemplate.ContainerSpec is missing")
	}
	in.Runtime = ""
	if t.Container == nil {
		t.Container = &taskpb.ContainerSpec{}
	}
	if err := fromContainer(c, t.Container); err != nil {
		return err
	}
	if r := in.Resources; r != nil {
		fromResources(r, t)
	} else {
		fromResources(&swarm.ResourceRequirements{}, t)
	}
	fromRestart(in.RestartPolicy, t)
	if p := in.Placement; p != nil {
		if p.MaxReplicas > math.MaxUint32 {
			return badRequest("TaskTemplate.Placement.MaxReplicas is too large")
		}
		t.Constraints, t.MaxPerNode, t.Preferences = take(&p.Constraints), uint32(take(&p.MaxReplicas)), nil
		for _, pref := range take(&p.Preferences) {
			if pref.Spread == nil {
				return badRequest("TaskTemplate.Placement.Preferences has one that is not Spread")
			}
			t.Preferences = append(t.Preferences, "spread="+pref.Spread.SpreadDescriptor)
		}
	} else {
		t.Constraints, t.MaxPerNode, t.Preferences = nil, 0, nil
	}
	t.Networks = nil
	for i := range in.Networks {
		n := &in.Networks[i]
		t.Networks = append(t.Networks, &taskpb.NetworkUse{Network: take(&n.Target), Aliases: take(&n.Aliases)})
		if err := untranslated("TaskTemplate.Networks", n); err != nil {
			return err
		}
	}
	in.Networks = nil
	if d := in.LogDriver; d != nil && (d.Name == "" || d.Name == "json-file") {
		d.Name = "" // which is what there is
	}
	t.Force = take(&in.ForceUpdate)
	return nil
}

// fromResources leaves what Docker cannot say, as a reservation of pids, as it was.
func fromResources(r *swarm.ResourceRequirements, t *taskpb.TaskSpec) {
	l, re := r.Limits, r.Reservations
	if l == nil {
		l = &swarm.Limit{}
	}
	if re == nil {
		re = &swarm.Resources{}
	}
	limits, reserved := t.Limits, t.Reservations
	if limits == nil {
		limits = &taskpb.Resources{}
	}
	if reserved == nil {
		reserved = &taskpb.Resources{}
	}
	limits.NanoCpus, limits.MemoryBytes, limits.Pids = take(&l.NanoCPUs), take(&l.MemoryBytes), take(&l.Pids)
	reserved.NanoCpus, reserved.MemoryBytes = take(&re.NanoCPUs), take(&re.MemoryBytes)
	if proto.Size(limits) > 0 {
		t.Limits = limits
	}
	if proto.Size(reserved) > 0 {
		t.Reservations = reserved
	}
}

var restartConditions = map[swarm.RestartPolicyCondition]taskpb.RestartPolicy_Condition{
	"": taskpb.RestartPolicy_CONDITION_UNSPECIFIED, swarm.RestartPolicyConditionNone: taskpb.RestartPolicy_CONDITION_NONE,
	swarm.RestartPolicyConditionOnFailure: taskpb.RestartPolicy_CONDITION_ON_FAILURE, swarm.RestartPolicyConditionAny: taskpb.RestartPolicy_CONDITION_ANY,
}

func fromRestart(p *swarm.RestartPolicy, t *taskpb.TaskSpec) {
	t.Restart = nil
	if p == nil {
		return
	}
	t.Restart = &taskpb.RestartPolicy{}
	if c, ok := restartConditions[p.Condition]; ok {
		t.Restart.Condition, p.Condition = c, ""
	}
	t.Restart.DelayNs, t.Restart.WindowNs = duration(&p.Delay), duration(&p.Window)
	if n := take(&p.MaxAttempts); n != nil {
		t.Restart.MaxAttempts = *n
	}
}

// duration takes a duration in nanoseconds; absent is 0.
func duration(p **time.Duration) int64 {
	if d := take(p); d != nil {
		return int64(*d)
	}
	return 0
}

func fromContainer(in *swarm.ContainerSpec, c *taskpb.ContainerSpec) error {
	looked := confine.Templated(c)
	fromImage(take(&in.Image), c)
	c.Labels, c.Command, c.Args, c.Env = take(&in.Labels), take(&in.Command), take(&in.Args), take(&in.Env)
	c.Hostname, c.Workdir, c.User = take(&in.Hostname), take(&in.Dir), take(&in.User)
	c.StopSignal, c.StopGraceNs = take(&in.StopSignal), duration(&in.StopGracePeriod)
	c.Tty, c.ReadOnly = take(&in.TTY), take(&in.ReadOnly)
	c.Init = false
	if init := take(&in.Init); init != nil {
		c.Init = *init
	}
	if in.Isolation == "default" {
		in.Isolation = ""
	}
	if err := fromConfinement(in, c); err != nil {
		return err
	}
	c.Healthcheck = nil
	if h := take(&in.Healthcheck); h != nil {
		var err error
		if c.Healthcheck, err = fromHealth(h); err != nil {
			return err
		}
	}
	was := c.Mounts
	c.Mounts = nil
	for _, m := range take(&in.Mounts) {
		out, err := fromMount(&m, was)
		if err != nil {
			return err
		}
		c.Mounts = append(c.Mounts, out)
	}
	confine.MarkTemplated(c, looked)
	return fromFiles(in, c)
}

// fromImage keeps what the image's name was resolved to where it did not change: Docker
// writes both as one.
func fromImage(in string, c *taskpb.ContainerSpec) {
	if in == imageOf(c) {
		return
	}
	c.Image, c.Digest = in, ""
}

func fromHealth(h *container.HealthConfig) (*taskpb.Healthcheck, error) {
	if h.Retries < 0 || h.Retries > math.MaxInt32 {
		return nil, badRequest("Healthcheck.Retries is %d: use 0 or more", h.Retries)
	}
	out := &taskpb.Healthcheck{Test: take(&h.Test), IntervalNs: int64(take(&h.Interval)), TimeoutNs: int64(take(&h.Timeout)),
		StartPeriodNs: int64(take(&h.StartPeriod)), StartIntervalNs: int64(take(&h.StartInterval)), Retries: uint32(take(&h.Retries))}
	return out, untranslated("TaskTemplate.ContainerSpec.Healthcheck", h)
}

func fromMount(m *mount.Mount, was []*taskpb.Mount) (*taskpb.Mount, error) {
	out := &taskpb.Mount{}
	if i := slices.IndexFunc(was, func(w *taskpb.Mount) bool { return w.GetTarget() == m.Target }); i >= 0 {
		out = proto.CloneOf(was[i])
		out.TmpfsSize, out.TmpfsMode, out.Volume, out.Bind = 0, 0, nil, nil
	}
	out.Source, out.Target, out.ReadOnly = take(&m.Source), take(&m.Target), take(&m.ReadOnly)
	switch kind := take(&m.Type); kind {
	case mount.TypeBind:
		out.Type = taskpb.Mount_TYPE_BIND
		if b := m.BindOptions; b != nil && b.Propagation == mount.PropagationRPrivate {
			out.Bind = &taskpb.BindOptions{Propagation: string(take(&b.Propagation))}
		}
	case mount.TypeTmpfs:
		out.Type = taskpb.Mount_TYPE_TMPFS
		if o := m.TmpfsOptions; o != nil {
			out.TmpfsSize, out.TmpfsMode = take(&o.SizeBytes), uint32(take(&o.Mode))
		}
	case mount.TypeVolume, "":
		if out.Source == "" {
			return nil, badRequest("the mount at %s is a volume without a name: give it one, else no task finds its data again", out.Target)
		}
		out.Type, out.Volume, out.Source = taskpb.Mount_TYPE_VOLUME, &taskpb.VolumeUse{Name: out.Source}, ""
		if o := m.VolumeOptions; o != nil {
			out.Volume.NoCopy, out.Volume.Labels, out.Volume.Subpath = take(&o.NoCopy), take(&o.Labels), take(&o.Subpath)
			if d := o.DriverConfig; d != nil {
				out.Volume.Driver, out.Volume.Options = take(&d.Name), take(&d.Options)
			}
		}
	default:
		return nil, notHere("a mount of type %q is not supported here: use volume, bind or tmpfs", kind)
	}
	return out, untranslated("TaskTemplate.ContainerSpec.Mounts", m)
}

// configsDir is where configs are whose target is a name. Docker's are below /.
const configsDir = "/run/configs/"

func fromFiles(in *swarm.ContainerSpec, c *taskpb.ContainerSpec) error {
	secrets, configs := c.Secrets, c.Configs
	c.Secrets, c.Configs = nil, nil
	for _, r := range take(&in.Secrets) {
		if r == nil || r.File == nil {
			return badRequest("a secret has no File: say where its data is to be")
		}
		u, err := fromFile(cmp.Or(r.SecretID, r.SecretName), r.File.Name, r.File.UID, r.File.GID, uint32(r.File.Mode), secrets)
		if err != nil {
			return err
		}
		c.Secrets = append(c.Secrets, u)
	}
	for _, r := range take(&in.Configs) {
		if r == nil || r.File == nil || r.Runtime != nil {
			return badRequest("a config has no File, or is for something else than a file: say where its data is to be")
		}
		target, ok := strings.CutPrefix(r.File.Name, configsDir)
		if !ok && target != "" && !strings.HasPrefix(target, "/") {
			target = "/" + target
		}
		u, err := fromFile(cmp.Or(r.ConfigID, r.ConfigName), target, r.File.UID, r.File.GID, uint32(r.File.Mode), configs)
		if err != nil {
			return err
		}
		c.Configs = append(c.Configs, u)
	}
	return nil
}

// fromFile keeps of the same source at the same place what Docker has no word for.
func fromFile(source, target, uid, gid string, mode uint32, was []*taskpb.FileUse) (*taskpb.FileUse, error) {
	u := &taskpb.FileUse{}
	if i := slices.IndexFunc(was, func(w *taskpb.FileUse) bool { return w.GetSource() == source && w.GetTarget() == target }); i >= 0 {
		u = proto.CloneOf(was[i])
	}
	u.Source, u.Target, u.Mode = source, target, mode
	for _, o := range []struct {
		text string
		into *uint32
	}{{uid, &u.Uid}, {gid, &u.Gid}} {
		n, err := strconv.ParseUint(cmp.Or(o.text, "0"), 10, 32)
		if err != nil {
			return nil, badRequest("%s: the owner %q is no number", source, o.text)
		}
		*o.into = uint32(n)
	}
	return u, nil
}

func fromEndpoint(e *swarm.EndpointSpec, out *schedulerpb.ServiceSpec) error {
	was, mode := out.Task.Ports, out.EndpointMode
	out.Task.Ports, out.EndpointMode = nil, schedulerpb.EndpointMode_ENDPOINT_MODE_UNSPECIFIED
	if e == nil {
		return nil
	}
	switch asked := take(&e.Mode); asked {
	case "":
	case swarm.ResolutionModeVIP: // which is what is meant where nothing is said
		if mode != schedulerpb.EndpointMode_ENDPOINT_MODE_DNSRR {
			out.EndpointMode = mode
		}
	case swarm.ResolutionModeDNSRR:
		out.EndpointMode = schedulerpb.EndpointMode_ENDPOINT_MODE_DNSRR
	default:
		return badRequest("EndpointSpec.Mode %q: use vip or dnsrr", asked)
	}
	for _, p := range take(&e.Ports) {
		port, err := fromPort(&p, was)
		if err != nil {
			return err
		}
		out.Task.Ports = append(out.Task.Ports, port)
	}
	return nil
}

func fromPort(p *swarm.PortConfig, was []*taskpb.Port) (*taskpb.Port, error) {
	out := &taskpb.Port{Published: take(&p.PublishedPort), Target: take(&p.TargetPort)}
	switch kind := take(&p.Protocol); kind {
	case "", network.TCP:
		out.Protocol = taskpb.Port_PROTOCOL_TCP
	case network.UDP:
		out.Protocol = taskpb.Port_PROTOCOL_UDP
	default:
		return nil, notHere("EndpointSpec.Ports: protocol %q is not there: use tcp or udp", kind)
	}
	switch mode := take(&p.PublishMode); mode {
	case "", swarm.PortConfigPublishModeIngress:
		out.Mode = taskpb.Port_MODE_INGRESS
	case swarm.PortConfigPublishModeHost:
		out.Mode = taskpb.Port_MODE_HOST
	default:
		return nil, badRequest("EndpointSpec.Ports: mode %q: use ingress or host", mode)
	}
	// A port that is the same keeps what Docker has no word for: an address of the host,
	// prefer-local, the PROXY protocol.
	for _, w := range was {
		if w.GetPublished() == out.Published && w.GetTarget() == out.Target && w.GetProtocol() == out.Protocol && w.GetMode() == out.Mode {
			out = proto.CloneOf(w)
		}
	}
	return out, untranslated("EndpointSpec.Ports", p)
}
