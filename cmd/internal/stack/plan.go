package stack

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
	"github.com/redoubt-cluster/redoubt/pki/audit"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

// Action is what a step does.
type Action string

// Actions. Replace is a removal and a creation at once, of what cannot be changed
// otherwise; Leave is of what the stack has and the files have not.
const (
	Create  Action = "create"
	Update  Action = "update"
	Replace Action = "replace"
	Keep    Action = "keep"
	Remove  Action = "remove"
	Leave   Action = "leave"
)

// Kind is what a step is done to.
type Kind string

// Kinds.
const (
	KindNetwork Kind = "network"
	KindVolume  Kind = "volume"
	KindSecret  Kind = "secret"
	KindConfig  Kind = "config"
	KindPolicy  Kind = "policy"
	KindService Kind = "service"
)

// Step is one thing to do, or to let be.
type Step struct {
	Action Action `json:"action"`
	Kind   Kind   `json:"kind"`
	Name   string `json:"name"`
	// Changes says what of the object becomes another, a field each; nothing of
	// what may be secret.
	Changes []string `json:"changes,omitempty"`

	id      string
	network *meshpb.NetworkSpec
	volume  *taskpb.VolumeSpec
	policy  *meshpb.PolicySpec
	coming  bool // all services that the policy names are wanted
	secret  Secret
	config  *secretspb.ConfigSpec
	// version is the number of one that there was before and that becomes the
	// current one again; 0: a new one.
	version uint64
	// was is the version that is current.
	was     uint64
	service *schedulerpb.ServiceSpec
	have    *schedulerpb.Service
}

// Plan is what is to be done, in order.
type Plan struct {
	Stack string `json:"stack"`
	Steps []Step `json:"steps"`
}

// Changes reports whether anything is to be done.
func (p *Plan) Changes() bool {
	return slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Action != Keep && s.Action != Leave })
}

// Removes reports whether anything but services is to be removed.
func (p *Plan) Removes() bool {
	return slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Action == Remove && s.Kind != KindService })
}

// Running are the ids of the services that are to run once the plan was applied, by
// name.
func (p *Plan) Running(done *Applied) map[string]string {
	out := map[string]string{}
	for _, s := range p.Steps {
		if s.Kind == KindService && s.Action == Keep {
			out[s.Name] = s.id
		}
	}
	for _, s := range done.Services {
		out[s.Name] = s.ID
	}
	return out
}

// Options say how a plan is made.
type Options struct {
	// Prune: what the stack has beside what is wanted is removed.
	Prune bool
	// Sign: services are signed, each for what its configs hold.
	Sign bool
	// Key is that of ids of secrets' versions.
	Key FingerprintKey
}

// planner is a plan that is being made.
type planner struct {
	Options
	want *Stack
	have *Cluster
	plan *Plan
	errs []error
}

// Make plans what makes have what is wanted. The errors say all that is in the way,
// sorted.
func Make(want *Stack, have *Cluster, o Options) (*Plan, error) {
	p := &planner{Options: o, want: want, have: have, plan: &Plan{Stack: want.Name, Steps: []Step{}}}
	for _, n := range want.Networks {
		p.network(n)
	}
	for _, v := range want.Volumes {
		p.volume(v)
	}
	for _, s := range want.Secrets {
		p.secret(s)
	}
	for _, c := range want.Configs {
		p.config(c)
	}
	for _, x := range want.Policies {
		p.policy(x)
	}
	for _, s := range inOrder(want.Services) {
		p.service(s)
	}
	p.rest()
	if len(p.errs) > 0 {
		slices.SortStableFunc(p.errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
		return nil, errors.Join(p.errs...)
	}
	return p.plan, nil
}

func (p *planner) add(s Step) { p.plan.Steps = append(p.plan.Steps, s) }

func (p *planner) refuse(format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf(format, args...))
}

// ours reports whether what has a wanted name is the stack's, and refuses it where
// it is not.
func (p *planner) ours(kind Kind, s described) bool {
	stack, labelled := s.GetLabels()[Label]
	switch {
	case stack == p.want.Name:
		return true
	case labelled:
		p.refuse("%s %s is of stack %s: give this stack another name, or remove that one (redoubt stack rm %s)", kind, s.GetName(), stack, stack)
	default:
		p.refuse("%s %s is there already and of no stack: remove it, or give this stack another name", kind, s.GetName())
	}
	return false
}

// changes are those between two messages of one type, as text.
func changes(old, now proto.Message) (out []string) {
	for _, f := range audit.Compare(old, now) {
		out = append(out, fmt.Sprintf("%s: %s -> %s", f.GetPath(), cmp.Or(f.GetOld(), "none"), cmp.Or(f.GetNew(), "none")))
	}
	return out
}

func (p *planner) network(want *meshpb.NetworkSpec) {
	s := Step{Action: Create, Kind: KindNetwork, Name: want.GetName(), network: want}
	have, ok := byName(p.have.Networks, want.GetName())
	if ok {
		if !p.ours(KindNetwork, have.GetSpec()) {
			return
		}
		normal, err := meshspec.Network(want)
		if err != nil {
			p.refuse("%v", err)
			return
		}
		if c := changes(have.GetSpec(), normal); len(c) > 0 {
			p.refuse("network %s is there and otherwise (%s): a network never changes; remove it with what is on it (redoubt stack rm %s), or give it another name", want.GetName(), strings.Join(c, "; "), p.want.Name)
			return
		}
		s.Action, s.id = Keep, have.GetId()
	}
	p.add(s)
}

// volume is as network, but that nothing is said of removing what holds data.
func (p *planner) volume(want *taskpb.VolumeSpec) {
	s := Step{Action: Create, Kind: KindVolume, Name: want.GetName(), volume: want}
	if have, ok := byName(p.have.Volumes, want.GetName()); ok {
		switch c := changes(have.GetSpec(), volumes.Complete(want)); {
		case have.GetRemovingSince() != 0:
			p.refuse("volume %s is being removed: try again when it is gone (redoubt volume ls), or give it another name", s.Name)
			return
		case have.GetSpec().GetLabels()[Label] != p.want.Name:
			p.refuse("volume %s is there already and not of this stack: say that it is external, or give it another name", s.Name)
			return
		case len(c) > 0:
			p.refuse("volume %s is there and otherwise (%s): a volume never changes; write it as it is, or give it another name", s.Name, strings.Join(c, "; "))
			return
		}
		s.Action, s.id = Keep, have.GetId()
	}
	p.add(s)
}

// fixed refuses another spec of what can get other data and nothing else.
func (p *planner) fixed(kind Kind, have, want proto.Message, name string) bool {
	c := changes(have, want)
	if len(c) > 0 {
		p.refuse("%s %s is there and otherwise (%s): only its data can change; remove it, or give it another name", kind, name, strings.Join(c, "; "))
	}
	return len(c) == 0
}

func (p *planner) secret(want Secret) {
	s := Step{Action: Create, Kind: KindSecret, Name: want.Spec.GetName(), secret: want}
	have, ok := byName(p.have.Secrets, want.Spec.GetName())
	if ok {
		if !p.ours(KindSecret, have.GetSpec()) || !p.fixed(KindSecret, have.GetSpec(), want.Spec, s.Name) {
			return
		}
		s.Action, s.id, s.was = Update, have.GetId(), have.GetCurrent()
		s.Changes = []string{"data: another version"}
		id := p.Key.Version(have.GetId(), want.Data)
		for _, v := range have.GetVersions() {
			switch {
			case v.GetId() != id:
			case v.GetNumber() == have.GetCurrent():
				s.Action, s.Changes = Keep, nil
			default:
				s.version, s.Changes = v.GetNumber(), []string{fmt.Sprintf("data: version %d again", v.GetNumber())}
			}
		}
	}
	p.add(s)
}

func (p *planner) config(want *secretspb.ConfigSpec) {
	s := Step{Action: Create, Kind: KindConfig, Name: want.GetName(), config: want}
	have, ok := byName(p.have.Configs, want.GetName())
	if ok {
		bare := func(c *secretspb.ConfigSpec) *secretspb.ConfigSpec {
			c = proto.CloneOf(c)
			c.Data = nil
			return c
		}
		if !p.ours(KindConfig, have.GetSpec()) || !p.fixed(KindConfig, bare(have.GetSpec()), bare(want), s.Name) {
			return
		}
		s.Action, s.id, s.was = Keep, have.GetId(), have.GetCurrent()
		if !bytes.Equal(have.GetSpec().GetData(), want.GetData()) {
			s.Action, s.Changes = Update, []string{fmt.Sprintf("data: %d bytes -> %d bytes", len(have.GetSpec().GetData()), len(want.GetData()))}
		}
	}
	p.add(s)
}

func (p *planner) policy(want *meshpb.PolicySpec) {
	s := Step{Action: Create, Kind: KindPolicy, Name: want.GetName(), policy: want}
	network, there := byName(p.have.Networks, want.GetNetwork())
	if !there && !slices.ContainsFunc(p.want.Networks, func(n *meshpb.NetworkSpec) bool { return n.GetName() == want.GetNetwork() }) {
		p.refuse("policy %s: there is no network %s: make it first (redoubt network create)", want.GetName(), want.GetNetwork())
		return
	}
	have, ok := byName(p.have.Policies, want.GetName())
	if ok {
		if !p.ours(KindPolicy, have.GetSpec()) {
			return
		}
		now := proto.CloneOf(want)
		if there {
			now.Network = network.GetId()
		}
		s.Action, s.id = Keep, have.GetId()
		if s.Changes = changes(have.GetSpec(), now); len(s.Changes) > 0 {
			s.Action = Replace
		}
	}
	s.coming = true
	for _, r := range want.GetRules() {
		for _, name := range []string{r.GetFromService(), r.GetToService()} {
			s.coming = s.coming && slices.ContainsFunc(p.want.Services, func(o *schedulerpb.ServiceSpec) bool { return o.GetName() == name })
		}
	}
	p.add(s)
}

func (p *planner) service(want *schedulerpb.ServiceSpec) {
	s := Step{Action: Create, Kind: KindService, Name: want.GetName(), service: want}
	p.named(want)
	have, ok := byName(p.have.Services, want.GetName())
	if ok {
		if !p.ours(KindService, have.GetSpec()) {
			return
		}
		s.Action, s.id, s.have = Keep, have.GetId(), have
		now := p.have.asStored(want, have.GetSpec())
		if !proto.Equal(now, have.GetSpec()) {
			s.Action, s.Changes = Update, changes(have.GetSpec(), now)
		}
		if renewed := p.renewed(want); p.Sign && len(renewed) > 0 {
			s.Action, s.Changes = Update, append(s.Changes, "signed for what is in "+strings.Join(renewed, ", "))
		}
		if s.Action == Update {
			// What is not in the files of it, and would be asked for anew.
			s.service = proto.CloneOf(want)
			s.service.Task.Force = have.GetSpec().GetTask().GetForce()
		}
	}
	p.add(s)
}

// renewed are the configs of a service that get other data.
func (p *planner) renewed(want *schedulerpb.ServiceSpec) (out []string) {
	for _, s := range p.plan.Steps {
		if s.Kind == KindConfig && s.Action == Update && slices.ContainsFunc(want.GetTask().GetContainer().GetConfigs(), func(u *taskpb.FileUse) bool { return u.GetSource() == s.Name }) {
			out = append(out, "config "+s.Name)
		}
	}
	return out
}

// named refuses a service that names what is not there and will not be.
func (p *planner) named(want *schedulerpb.ServiceSpec) {
	t := want.GetTask()
	missing := func(kind Kind, name string, there, coming bool) {
		if !there && !coming {
			p.refuse("service %s: there is no %s %s: make it first (redoubt %s create)", want.GetName(), kind, name, kind)
		}
	}
	for _, u := range t.GetNetworks() {
		_, there := byName(p.have.Networks, u.GetNetwork())
		missing(KindNetwork, u.GetNetwork(), there, slices.ContainsFunc(p.want.Networks, func(n *meshpb.NetworkSpec) bool { return n.GetName() == u.GetNetwork() }))
	}
	for _, u := range volumes.Uses(t.GetContainer()) {
		_, there := byName(p.have.Volumes, u.GetName())
		missing(KindVolume, u.GetName(), there, slices.ContainsFunc(p.want.Volumes, func(v *taskpb.VolumeSpec) bool { return v.GetName() == u.GetName() }))
	}
	secret := func(name string) {
		_, there := byName(p.have.Secrets, name)
		missing(KindSecret, name, there, slices.ContainsFunc(p.want.Secrets, func(s Secret) bool { return s.Spec.GetName() == name }))
	}
	for _, u := range t.GetContainer().GetSecrets() {
		secret(u.GetSource())
	}
	if auth := t.GetContainer().GetRegistryAuth(); auth != "" {
		secret(auth)
	}
	for _, u := range t.GetContainer().GetConfigs() {
		_, there := byName(p.have.Configs, u.GetSource())
		missing(KindConfig, u.GetSource(), there, slices.ContainsFunc(p.want.Configs, func(c *secretspb.ConfigSpec) bool { return c.GetName() == u.GetSource() }))
	}
}

// rest is what the stack has and the files have not.
func (p *planner) rest() {
	for _, s := range p.have.Of(p.want.Name).removal() {
		if slices.ContainsFunc(p.plan.Steps, func(o Step) bool { return o.Kind == s.Kind && o.Name == s.Name }) {
			continue
		}
		if !p.Prune {
			s.Action = Leave
		}
		p.add(s)
	}
}

// removal are the steps that remove all of it: who uses something goes before it.
func (c *Cluster) removal() (out []Step) {
	of := func(kind Kind, names map[string]string) {
		for _, name := range slices.Sorted(maps.Keys(names)) {
			out = append(out, Step{Action: Remove, Kind: kind, Name: name, id: names[name]})
		}
	}
	of(KindService, names(c.Services))
	of(KindPolicy, names(c.Policies))
	of(KindConfig, names(c.Configs))
	of(KindSecret, names(c.Secrets))
	of(KindNetwork, names(c.Networks))
	return out
}

func names[O object[S], S described](all []O) map[string]string {
	out := map[string]string{}
	for _, o := range all {
		out[o.GetSpec().GetName()] = o.GetId()
	}
	return out
}

// Removal plans to remove a whole stack.
func Removal(name string, have *Cluster) *Plan {
	return &Plan{Stack: name, Steps: have.Of(name).removal()}
}
