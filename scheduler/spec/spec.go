// Package spec decides whether a service may be stored: it fills in the
// defaults of a ServiceSpec and validates every field of it.
//
// It owns the grammar of what people ask for: names, image references,
// environment, mounts, ports, resources, restart policies and placement
// constraints, each with a bound in limits.go. It is strict: what it does not
// know it refuses, also fields of a newer version, and what is valid but not
// done yet it refuses saying so. Every refusal is one line that names the field
// and the remedy.
//
// It refuses to look anything up. Whether an image exists, a node has a label
// or a bind mount is allowed on a node is decided where that is known.
//
// Use: Normalize gives the copy with defaults that is stored and signed;
// Validate is called on that. ParseConstraint is the one reader of constraints,
// for validation and placement alike.
package spec

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/strictpb"
	"github.com/redoubt-cluster/redoubt/scheduler/confine"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Normalize returns a copy of s in canonical form: defaults written out, signal
// names and constraints spelt one way. It is idempotent and leaves what is
// invalid as it is.
func Normalize(s *schedulerpb.ServiceSpec) *schedulerpb.ServiceSpec {
	s = proto.CloneOf(s)
	if s == nil {
		return nil
	}
	if s.Mode == nil {
		s.Mode = &schedulerpb.ServiceSpec_Replicated{Replicated: &schedulerpb.Replicated{Replicas: DefaultReplicas}}
	}
	normalizeUpdate(s.Update)
	normalizeUpdate(s.Rollback)
	normalizeJob(s)
	t := s.Task
	if t == nil {
		return s
	}
	if len(t.Networks) > 0 && s.EndpointMode == schedulerpb.EndpointMode_ENDPOINT_MODE_UNSPECIFIED {
		s.EndpointMode = schedulerpb.EndpointMode_ENDPOINT_MODE_VIP
	}
	if t.Restart == nil {
		t.Restart = &taskpb.RestartPolicy{}
	}
	if t.Restart.Condition == taskpb.RestartPolicy_CONDITION_UNSPECIFIED {
		t.Restart.Condition = taskpb.RestartPolicy_CONDITION_ANY
	}
	if t.Restart.DelayNs == 0 {
		t.Restart.DelayNs = int64(DefaultRestartDelay)
	}
	for _, p := range t.Ports {
		normalizePort(p)
	}
	normalizeDependencies(t.DependsOn)
	for i, text := range t.Constraints {
		if c, err := ParseConstraint(text); err == nil {
			t.Constraints[i] = c.String()
		}
	}
	for i, text := range s.IngressConstraints {
		if c, err := ParseEntryConstraint(text); err == nil {
			s.IngressConstraints[i] = c.String()
		}
	}
	normalizePlacement(t)
	if name, err := signalName(t.GetIdentity().GetSignal()); err == nil && name != "" {
		t.Identity.Signal = name
	}
	if c := t.Container; c != nil {
		if c.StopGraceNs == 0 {
			c.StopGraceNs = int64(DefaultStopGrace)
		}
		if name, err := signalName(c.StopSignal); err == nil {
			c.StopSignal = name
		}
		for _, u := range append(c.Secrets[:len(c.Secrets):len(c.Secrets)], c.Configs...) {
			if name, err := signalName(u.GetSignal()); err == nil && u != nil {
				u.Signal = name
			}
			if u.GetOnUpdate() == taskpb.OnUpdate_ON_UPDATE_UNSPECIFIED && u != nil {
				u.OnUpdate = taskpb.OnUpdate_ON_UPDATE_NONE
			}
		}
	}
	return s
}

// Validate returns an error that says which field of a normalized spec is wrong
// and what to do.
func Validate(s *schedulerpb.ServiceSpec) error {
	if s == nil {
		return fmt.Errorf("the service has no spec: give a name and an image")
	}
	if n := proto.Size(s); n > MaxSpecBytes {
		return fmt.Errorf("the service is %d bytes long in all: at most %d are allowed", n, MaxSpecBytes)
	}
	if err := CheckKnown(s); err != nil {
		return err
	}
	if err := ident.CheckOwnName("service", s.GetName()); err != nil {
		return err
	}
	if err := ident.CheckLabels("service label", s.GetLabels()); err != nil {
		return err
	}
	switch m := s.GetMode().(type) {
	case *schedulerpb.ServiceSpec_Replicated:
		if n := m.Replicated.GetReplicas(); n > MaxReplicas {
			return fmt.Errorf("replicas is %d: use 0 to %d", n, MaxReplicas)
		}
	case *schedulerpb.ServiceSpec_Global, *schedulerpb.ServiceSpec_ReplicatedJob, *schedulerpb.ServiceSpec_GlobalJob:
	default:
		return fmt.Errorf("the service has no mode: use replicated, global, replicated-job or global-job")
	}
	if err := validateJob(s); err != nil {
		return err
	}
	if n := s.GetTask().GetMaxPerNode(); n > MaxReplicas {
		return fmt.Errorf("max per node is %d: use 1 to %d, or 0 for no bound", n, MaxReplicas)
	} else if n > 0 && PerNode(s) {
		return fmt.Errorf("max per node is set for a global service or job, which has one task a node: leave it out")
	}
	switch s.GetEndpointMode() {
	case schedulerpb.EndpointMode_ENDPOINT_MODE_UNSPECIFIED:
	case schedulerpb.EndpointMode_ENDPOINT_MODE_VIP, schedulerpb.EndpointMode_ENDPOINT_MODE_DNSRR:
		if len(s.GetTask().GetNetworks()) == 0 {
			return fmt.Errorf("an endpoint mode is for services on networks: name a network, or leave the mode out")
		}
	default:
		return fmt.Errorf("the endpoint mode is unknown: use vip or dnsrr")
	}
	task, err := expanded(s)
	if err != nil {
		return err
	}
	if err := validateTask(task); err != nil {
		return err
	}
	if err := validateVolumes(s); err != nil {
		return err
	}
	if err := validateUpdates(s); err != nil {
		return err
	}
	if err := validatePlacement(s); err != nil {
		return err
	}
	if err := validateDependencies(s); err != nil {
		return err
	}
	return validateEntries(s)
}

// expanded is the task with its templates filled in as on some node: what becomes of
// them is held to the same rules as what is written.
func expanded(s *schedulerpb.ServiceSpec) (*taskpb.TaskSpec, error) {
	t := s.GetTask()
	if !t.GetContainer().GetTemplated() {
		return t, nil
	}
	const id = "00000000000000000000000000"
	f := &taskpb.FileFacts{ClusterId: id, NodeId: id, NodeName: "node", ServiceId: id, ServiceName: s.GetName(), ServiceLabels: s.GetLabels()}
	if !PerNode(s) {
		f.Slot = 1
	}
	c, err := confine.Expand(t.GetContainer(), confine.Facts(id, f))
	if err != nil {
		return nil, err
	}
	t = proto.CloneOf(t)
	t.Container = c
	return t, nil
}

func validateTask(t *taskpb.TaskSpec) error {
	if t == nil || t.GetContainer() == nil {
		return fmt.Errorf("the service has no container: give an image")
	}
	if err := validateContainer(t.GetContainer()); err != nil {
		return err
	}
	if err := validateResources(t.GetReservations(), t.GetLimits()); err != nil {
		return err
	}
	if err := validateRestart(t.GetRestart()); err != nil {
		return err
	}
	if err := validatePorts(t.GetPorts()); err != nil {
		return err
	}
	if err := validateNetworks(t.GetNetworks()); err != nil {
		return err
	}
	if err := validateIdentity(t.GetIdentity()); err != nil {
		return err
	}
	if err := CheckPlaces(t); err != nil {
		return err
	}
	if n := len(t.GetConstraints()); n > MaxConstraints {
		return fmt.Errorf("there are %d constraints: at most %d are allowed", n, MaxConstraints)
	}
	for _, text := range t.GetConstraints() {
		if _, err := ParseConstraint(text); err != nil {
			return err
		}
	}
	return validatePlatforms(t.GetPlatforms())
}

// CheckKnown refuses a message with fields that this version does not know, at
// any depth: they would be stored, and mean something later that nobody
// validated.
func CheckKnown(m proto.Message) error {
	if t := strictpb.Unknown(m); t != "" {
		return fmt.Errorf("%s has fields that this version does not know: upgrade the cluster or use the matching client", t[strings.LastIndexByte(t, '.')+1:])
	}
	return nil
}
