// Package stack is what a stack is to the cluster: networks, volumes, secrets, configs,
// network policies and services that carry its label, and what has to be done so
// that the cluster has them as they are wanted.
//
// It is two halves. Make compares a Stack, which somebody read from files, with a
// Cluster, which was read from the managers, and gives a Plan: a list of steps in
// the order in which they can be done. It does no I/O and changes nothing, so that
// a plan that is shown is the plan that is carried out. Applier carries it out, one
// call of the operator API a step, each at the version that was looked at: what
// somebody else changed meanwhile is an error and stays as they left it.
//
// A stack's objects are called <stack>_<name> and carry the label
// com.docker.stack.namespace. What has such a name and not the label is somebody
// else's, and nothing of the plan is done.
//
// Nobody reads a secret, also not to see whether it changed. A version's id tells
// whoever has the key by which it was made (fingerprint.go), and says nothing to
// anybody else.
package stack

import (
	"fmt"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

// Label says which stack an object is part of.
const Label = spec.StackLabel

// Stack is what is wanted. Names in it are whole, with the stack's; services name
// networks, volumes, secrets and configs so, whether they are of the stack or not.
type Stack struct {
	Name     string
	Networks []*meshpb.NetworkSpec
	Volumes  []*taskpb.VolumeSpec
	Secrets  []Secret
	Configs  []*secretspb.ConfigSpec
	Policies []*meshpb.PolicySpec
	Services []*schedulerpb.ServiceSpec
}

// Secret is a secret and what it is to hold, at least one byte.
type Secret struct {
	Spec *secretspb.SecretSpec
	Data []byte
}

// Wipe overwrites what secrets are to hold.
func (s *Stack) Wipe() {
	for _, x := range s.Secrets {
		clear(x.Data)
	}
}

// Name is that of an object of a stack.
func Name(stack, name string) string { return stack + "_" + name }

// Short is name without its stack's.
func Short(stack, name string) string { return strings.TrimPrefix(name, stack+"_") }

// CheckName returns an error unless a stack can have the name.
func CheckName(name string) error {
	if err := ident.CheckName(name); err != nil {
		return fmt.Errorf("stack: %w", err)
	}
	return nil
}

// Cluster is what there is, of every stack and of none.
type Cluster struct {
	Services []*schedulerpb.Service
	Networks []*meshpb.Network
	// Volumes are there where the wanted services have some.
	Volumes  []*schedulerpb.Volume
	Policies []*meshpb.Policy
	Secrets  []*secretspb.Secret
	// Configs of the wanted names have their data, others need not.
	Configs []*secretspb.Config
}

// Of is what carries a stack's label. Volumes are not among it: their data is for
// somebody to remove who says so.
func (c *Cluster) Of(stack string) *Cluster {
	return &Cluster{
		Services: labelled(c.Services, stack), Networks: labelled(c.Networks, stack), Policies: labelled(c.Policies, stack),
		Secrets: labelled(c.Secrets, stack), Configs: labelled(c.Configs, stack),
	}
}

// Empty reports whether nothing is there.
func (c *Cluster) Empty() bool {
	return len(c.Services)+len(c.Networks)+len(c.Policies)+len(c.Secrets)+len(c.Configs) == 0
}

// described is what the specs of all objects have.
type described interface {
	GetName() string
	GetLabels() map[string]string
}

// object is anything that is stored under a spec.
type object[S described] interface {
	GetId() string
	GetSpec() S
}

func labelled[O object[S], S described](all []O, stack string) (out []O) {
	for _, o := range all {
		if o.GetSpec().GetLabels()[Label] == stack {
			out = append(out, o)
		}
	}
	return out
}

// byName finds the object of that name; the zero O: there is none.
func byName[O object[S], S described](all []O, name string) (found O, ok bool) {
	for _, o := range all {
		if o.GetSpec().GetName() == name {
			return o, true
		}
	}
	return found, false
}

// usesVolumes reports whether the stack has volumes, or its services name some.
func (s *Stack) usesVolumes() bool {
	return len(s.Volumes) > 0 || slices.ContainsFunc(s.Services, func(sp *schedulerpb.ServiceSpec) bool { return len(volumes.Uses(sp.GetTask().GetContainer())) > 0 })
}
