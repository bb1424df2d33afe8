package lock

import (
	"crypto/ed25519"
	"errors"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/strictpb"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Sign makes what a service carries: the chain, and s signed by key, which has to be
// one of the head's.
func Sign(c *Chain, s *lockpb.Statement, key ed25519.PrivateKey) (*lockpb.Signed, error) {
	switch {
	case c.Missing() > 0:
		return nil, errors.New("the chain's last link lacks signatures: no node takes it")
	case c.Head().GetEnds():
		return nil, errors.New("the chain ends the lock: nothing needs to be signed")
	case !has(c.Head(), PublicKey(key.Public().(ed25519.PublicKey))):
		return nil, errors.New("this key is none of those that the chain's head names")
	}
	s = proto.CloneOf(s)
	s.ClusterId = c.Head().GetClusterId()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		return nil, err
	}
	out := &lockpb.Signed{Chain: c.raw, Statement: &lockpb.Envelope{Payload: b, Signatures: []*lockpb.Signature{sign(statementLabel, b, key)}}}
	if proto.Size(out) > MaxSigned {
		return nil, refuse(RuleSigned, "what is signed has more than %d bytes", MaxSigned)
	}
	return out, nil
}

// Read decodes what a service carries, nil where that is nothing. Nothing in it is
// verified.
func Read(b []byte) (*lockpb.Signed, error) {
	if len(b) == 0 {
		return nil, nil
	}
	s := &lockpb.Signed{}
	if len(b) > MaxSigned {
		return nil, refuse(RuleSigned, "the signature has more than %d bytes", MaxSigned)
	}
	if err := proto.Unmarshal(b, s); err != nil || strictpb.Unknown(s) != "" {
		return nil, refuse(RuleSigned, "the signature is malformed, or of a newer version")
	}
	return s, nil
}

// Verify returns the statement if a key of the chain's head signed it, for the chain's
// cluster, and it counts at now.
func (c *Chain) Verify(now time.Time, e *lockpb.Envelope) (*lockpb.Statement, error) {
	if len(e.GetPayload()) == 0 {
		return nil, ErrUnsigned
	}
	if len(e.GetSignatures()) != 1 || !has(c.Head(), e.GetSignatures()[0].GetKey()) {
		return nil, refuse(RuleSignature, "the service is not signed by one key that is trusted here")
	}
	if !verifies(statementLabel, e.GetPayload(), e.GetSignatures()[0]) {
		return nil, refuse(RuleSignature, "the signature is not of these bytes")
	}
	s := &lockpb.Statement{}
	if err := proto.Unmarshal(e.GetPayload(), s); err != nil || strictpb.Unknown(s) != "" || len(s.GetConfigs()) > maxConfigs || len(s.GetSecrets()) > maxConfigs {
		return nil, refuse(RuleSpec, "what was signed is malformed, or of a newer version")
	}
	switch {
	case s.GetClusterId() != c.Head().GetClusterId():
		return nil, refuse(RuleCluster, "it was signed for another cluster")
	case s.GetSerial() < c.Head().GetVoidBefore():
		return nil, refuse(RuleRetired, "what was signed before %s counts no more: have it signed anew", time.UnixMilli(c.Head().GetVoidBefore()).UTC().Format(time.RFC3339))
	case s.GetSerial() <= 0 || s.GetSerial() > now.Add(maxAhead).UnixMilli():
		return nil, refuse(RuleExpired, "it was signed more than %s from now: set the clocks right, and have it signed anew", maxAhead)
	case s.GetNotAfter() != 0 && s.GetNotAfter() <= now.Unix():
		return nil, refuse(RuleExpired, "the signature was good until %s: have it signed anew", time.Unix(s.GetNotAfter(), 0).UTC().Format(time.RFC3339))
	}
	return s, nil
}

// Task is what a node is told to run.
type Task struct {
	Service string // its name
	Slot    uint32
	Spec    *taskpb.TaskSpec
	// Local are the ids of the networks of the node itself that it is put on.
	Local []string
}

// match returns an error unless t is what s says.
func match(s *lockpb.Statement, t Task) error {
	switch {
	case s.GetService() != t.Service:
		return refuse(RuleService, "it was signed for service %q", s.GetService())
	case s.GetGlobal() != (t.Slot == 0) || !s.GetGlobal() && uint64(t.Slot) > s.GetMaxReplicas():
		return refuse(RuleReplicas, "slot %d lies beyond the %d replicas that were signed", t.Slot, s.GetMaxReplicas())
	}
	for _, id := range t.Local {
		if !slices.ContainsFunc(s.GetTask().GetNetworks(), func(u *taskpb.NetworkUse) bool { return u.GetNetwork() == id }) {
			return refuse(RuleSpec, "it was not signed for network %.64q of this node", id)
		}
	}
	return same(s.GetTask(), t.Spec)
}

// CheckTarget returns an error unless clients from outside may be led to that port of
// the program. The ports that entry nodes answer on may change without another task, so
// this is held against what was signed last.
func CheckTarget(s *lockpb.Statement, port uint32) error {
	for _, p := range s.GetTask().GetPorts() {
		if p.GetMode() == taskpb.Port_MODE_INGRESS && p.GetTarget() == port {
			return nil
		}
	}
	return refuse(RuleSpec, "it was not signed that clients are led to port %d", port)
}

// Describes returns an error unless a service is what s says.
func Describes(s *lockpb.Statement, name string, labels map[string]string, global bool, replicas uint64, task *taskpb.TaskSpec) error {
	switch {
	case s.GetService() != name || !maps.Equal(s.GetLabels(), labels):
		return refuse(RuleService, "it was signed for service %q, or with other labels", s.GetService())
	case s.GetGlobal() != global || replicas > s.GetMaxReplicas():
		return refuse(RuleReplicas, "at most %d replicas were signed: have it signed for more", s.GetMaxReplicas())
	}
	return same(s.GetTask(), task)
}

// same returns an error unless tasks of both run the same.
func same(signed, is *taskpb.TaskSpec) error {
	if !Alike(signed, is) {
		return refuse(RuleSpec, "the task is not what was signed")
	}
	return nil
}

// Alike reports whether tasks of both run the same.
func Alike(a, b *taskpb.TaskSpec) bool { return proto.Equal(shape(a), shape(b)) }

// shape leaves out what does not decide what a container is: how often its tasks were
// replaced, what machines its image is for, and which ports entry nodes answer on, but
// for whether there are any.
func shape(t *taskpb.TaskSpec) *taskpb.TaskSpec {
	if t == nil {
		return &taskpb.TaskSpec{}
	}
	t = proto.CloneOf(t)
	t.Force, t.Platforms = 0, nil
	var ports []*taskpb.Port
	ingress := false
	for _, p := range t.Ports {
		if p.GetMode() == taskpb.Port_MODE_INGRESS {
			ingress = true
			continue
		}
		ports = append(ports, p)
	}
	if ingress {
		ports = append(ports, &taskpb.Port{Mode: taskpb.Port_MODE_INGRESS})
	}
	t.Ports = ports
	return t
}
