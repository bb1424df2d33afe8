package dockerapi

import (
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// imageOf is an image with what it was resolved to.
func imageOf(c *taskpb.ContainerSpec) string {
	if c.GetDigest() == "" || strings.Contains(c.GetImage(), "@") {
		return c.GetImage()
	}
	return c.GetImage() + "@" + c.GetDigest()
}

// toService is a specification in Docker's words, which fromService reads back. named
// gives the name of a secret or config by its id.
func toService(s *schedulerpb.ServiceSpec, named func(id string) string) swarm.ServiceSpec {
	out := swarm.ServiceSpec{Annotations: swarm.Annotations{Name: s.GetName(), Labels: labels(s.GetLabels())}, TaskTemplate: toTaskSpec(s.GetTask(), named),
		UpdateConfig: toUpdate(s.GetUpdate()), RollbackConfig: toUpdate(s.GetRollback()), Mode: toMode(s)}
	out.EndpointSpec = &swarm.EndpointSpec{Mode: swarm.ResolutionModeVIP, Ports: toPorts(s.GetTask().GetPorts())}
	if s.GetEndpointMode() == schedulerpb.EndpointMode_ENDPOINT_MODE_DNSRR {
		out.EndpointSpec.Mode = swarm.ResolutionModeDNSRR
	}
	return out
}

func toTaskSpec(t *taskpb.TaskSpec, named func(id string) string) swarm.TaskSpec {
	out := swarm.TaskSpec{ContainerSpec: toContainer(t.GetContainer(), named), ForceUpdate: t.GetForce(), Runtime: swarm.RuntimeContainer,
		Placement: &swarm.Placement{Constraints: t.GetConstraints(), MaxReplicas: uint64(t.GetMaxPerNode())}, Resources: toResources(t)}
	if r := t.GetRestart(); r != nil {
		delay, window, attempts := time.Duration(r.GetDelayNs()), time.Duration(r.GetWindowNs()), r.GetMaxAttempts()
		out.RestartPolicy = &swarm.RestartPolicy{Delay: &delay, MaxAttempts: &attempts,
			Condition: swarm.RestartPolicyCondition(strings.ReplaceAll(lower(r.GetCondition().String(), "CONDITION_"), "_", "-"))}
		if r.GetCondition() == taskpb.RestartPolicy_CONDITION_UNSPECIFIED {
			out.RestartPolicy.Condition = swarm.RestartPolicyConditionAny
		}
		if window != 0 {
			out.RestartPolicy.Window = &window
		}
	}
	for _, text := range t.GetPreferences() {
		_, over, _ := strings.Cut(text, "=")
		out.Placement.Preferences = append(out.Placement.Preferences, swarm.PlacementPreference{Spread: &swarm.SpreadOver{SpreadDescriptor: over}})
	}
	for _, n := range t.GetNetworks() {
		out.Networks = append(out.Networks, swarm.NetworkAttachmentConfig{Target: n.GetNetwork(), Aliases: n.GetAliases()})
	}
	return out
}

func toResources(t *taskpb.TaskSpec) *swarm.ResourceRequirements {
	l, r := t.GetLimits(), t.GetReservations()
	return &swarm.ResourceRequirements{Limits: &swarm.Limit{NanoCPUs: l.GetNanoCpus(), MemoryBytes: l.GetMemoryBytes(), Pids: l.GetPids()},
		Reservations: &swarm.Resources{NanoCPUs: r.GetNanoCpus(), MemoryBytes: r.GetMemoryBytes()}}
}

func toContainer(c *taskpb.ContainerSpec, named func(id string) string) *swarm.ContainerSpec {
	out := &swarm.ContainerSpec{
		Image: imageOf(c), Labels: c.GetLabels(), Command: c.GetCommand(), Args: c.GetArgs(), Env: c.GetEnv(),
		Hostname: c.GetHostname(), Dir: c.GetWorkdir(), User: c.GetUser(), StopSignal: c.GetStopSignal(), TTY: c.GetTty(), ReadOnly: c.GetReadOnly(),
		Isolation: "default",
	}
	toConfinement(c, out)
	if c.GetInit() {
		on := true
		out.Init = &on
	}
	if ns := time.Duration(c.GetStopGraceNs()); ns != 0 {
		out.StopGracePeriod = &ns
	}
	if h := c.GetHealthcheck(); h != nil {
		out.Healthcheck = &container.HealthConfig{Test: h.GetTest(), Interval: time.Duration(h.GetIntervalNs()), Timeout: time.Duration(h.GetTimeoutNs()),
			StartPeriod: time.Duration(h.GetStartPeriodNs()), StartInterval: time.Duration(h.GetStartIntervalNs()), Retries: int(h.GetRetries())}
	}
	for _, m := range c.GetMounts() {
		out.Mounts = append(out.Mounts, toMount(m))
	}
	for _, u := range c.GetSecrets() {
		out.Secrets = append(out.Secrets, &swarm.SecretReference{SecretID: u.GetSource(), SecretName: named(u.GetSource()),
			File: &swarm.SecretReferenceFileTarget{Name: u.GetTarget(), UID: number(u.GetUid()), GID: number(u.GetGid()), Mode: os.FileMode(u.GetMode())}})
	}
	for _, u := range c.GetConfigs() {
		target := u.GetTarget()
		if target != "" && !strings.HasPrefix(target, "/") {
			target = configsDir + target
		}
		out.Configs = append(out.Configs, &swarm.ConfigReference{ConfigID: u.GetSource(), ConfigName: named(u.GetSource()),
			File: &swarm.ConfigReferenceFileTarget{Name: target, UID: number(u.GetUid()), GID: number(u.GetGid()), Mode: os.FileMode(u.GetMode())}})
	}
	return out
}

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

func toMount(m *taskpb.Mount) mount.Mount {
	out := mount.Mount{Type: mount.TypeBind, Source: m.GetSource(), Target: m.GetTarget(), ReadOnly: m.GetReadOnly()}
	switch m.GetType() {
	case taskpb.Mount_TYPE_TMPFS:
		out.Type = mount.TypeTmpfs
		if m.GetTmpfsSize() != 0 || m.GetTmpfsMode() != 0 {
			out.TmpfsOptions = &mount.TmpfsOptions{SizeBytes: m.GetTmpfsSize(), Mode: os.FileMode(m.GetTmpfsMode())}
		}
	case taskpb.Mount_TYPE_VOLUME:
		u := m.GetVolume()
		out.Type, out.Source = mount.TypeVolume, u.GetName()
		o := &mount.VolumeOptions{NoCopy: u.GetNoCopy(), Labels: u.GetLabels(), Subpath: u.GetSubpath()}
		if u.GetDriver() != "" || len(u.GetOptions()) > 0 {
			o.DriverConfig = &mount.Driver{Name: u.GetDriver(), Options: u.GetOptions()}
		}
		if o.DriverConfig != nil || o.NoCopy || o.Subpath != "" || len(o.Labels) > 0 {
			out.VolumeOptions = o
		}
	default:
		if p := m.GetBind().GetPropagation(); p != "" {
			out.BindOptions = &mount.BindOptions{Propagation: mount.Propagation(p)}
		}
	}
	return out
}

func toPorts(ports []*taskpb.Port) (out []swarm.PortConfig) {
	for _, p := range ports {
		c := swarm.PortConfig{Protocol: network.TCP, TargetPort: p.GetTarget(), PublishedPort: p.GetPublished(), PublishMode: swarm.PortConfigPublishModeIngress}
		if p.GetProtocol() == taskpb.Port_PROTOCOL_UDP {
			c.Protocol = network.UDP
		}
		if p.GetMode() == taskpb.Port_MODE_HOST {
			c.PublishMode = swarm.PortConfigPublishModeHost
		}
		out = append(out, c)
	}
	return out
}
