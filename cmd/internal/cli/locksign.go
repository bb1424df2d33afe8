package cli

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/contexts"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/audit"
	"github.com/redoubt-cluster/redoubt/scheduler/lock"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
)

// Signing of services. A manager says how it would store a service; what differs from
// what was asked for may be ids in the place of names, and nothing else, or nothing is
// signed. The image's digest is the deployer's own word.

// signFlags say who signs.
type signFlags struct {
	with     string
	chain    string
	valid    time.Duration
	replicas replicas
	asIs     bool
	// Of configs, NAME=FILE: what they are to hold.
	configs, templates []string
}

func (s *signFlags) add(f *pflag.FlagSet) {
	f.StringVar(&s.with, "sign-with", "", "sign the service by this deployer's key (redoubt lock key ls)")
	f.StringVar(&s.chain, "sign-chain", "", "`file` of the chain that names the key (default lock/chain)")
	f.DurationVar(&s.valid, "sign-for", 0, "how long the signature is good (default: until a link retires it)")
	f.Var(&s.replicas, "sign-replicas", "sign for up to so many tasks (default: the number of replicas)")
	f.StringArrayVar(&s.configs, "sign-config", nil, "NAME=FILE: sign for a config that holds what FILE does, new or changed since it was signed")
	f.StringArrayVar(&s.templates, "sign-template", nil, "NAME=FILE: the same of a config that is a template")
	f.BoolVar(&s.asIs, "sign-as-is", false, "sign what the managers say the service is, though nobody has signed that")
}

type signer struct {
	flags    *signFlags
	chain    *lock.Chain
	key      ed25519.PrivateKey
	now      func() time.Time
	contents map[string]*lockpb.Config // that the deployer gave, by name
	memory   contexts.Deployers
	say      io.Writer
}

// signer is nil where nothing is to be signed.
func (a *app) signer(f *signFlags) (*signer, error) {
	if f.with == "" {
		if f.chain != "" || f.valid != 0 || f.replicas.set || f.asIs || len(f.configs) > 0 || len(f.templates) > 0 {
			return nil, usagef("--sign-with is missing: it names the deployer's key")
		}
		return nil, nil
	}
	if f.valid < 0 || f.valid%time.Second != 0 {
		return nil, usagef("--sign-for %s: give a positive number of whole seconds, as 720h", f.valid)
	}
	path, err := a.chainFile([]string{f.chain})
	if err != nil {
		return nil, err
	}
	c, err := readChain(path)
	if err != nil {
		return nil, err
	}
	contents, err := f.contents()
	if err != nil {
		return nil, err
	}
	memory, err := a.deployers()
	if err != nil {
		return nil, err
	}
	key, err := a.openDeployer(f.with)
	if err != nil {
		return nil, err
	}
	return &signer{f, c, key, time.Now, contents, memory, a.Stderr}, nil
}

// create has req be signed.
func (s *signer) create(ctx context.Context, c *api, req *controlpb.CreateServiceRequest) error {
	if err := pinned(req.GetSpec()); err != nil {
		return err
	}
	r, err := c.CreateService(ctx, &controlpb.CreateServiceRequest{Spec: req.GetSpec(), Plan: true})
	if err != nil {
		return err
	}
	req.Signed, err = s.sign(ctx, c, req.GetSpec(), r.GetPlanned(), nil)
	req.Spec = r.GetPlanned()
	return err
}

// update has req be signed, whose specification was made from what was there, was,
// which the managers say is the service of that name, and signed so.
func (s *signer) update(ctx context.Context, c *api, name string, req *controlpb.UpdateServiceRequest, was *schedulerpb.ServiceSpec, signed []byte) error {
	if was.GetName() != name { // else one service's change would be signed for another, which has other secrets
		return failf(ExitError, "service %s was asked for, and the managers have %s in its place: what is signed is named by its name, as ids are theirs to give", printable(name), printable(was.GetName()))
	}
	if err := pinned(req.GetSpec()); err != nil {
		return err
	}
	base, err := s.base(was, signed)
	if err != nil && !s.flags.asIs {
		return fmt.Errorf("what the managers say the service is now is not what a deployer signed last (%w): look at all of it (redoubt service inspect --format json), and add --sign-as-is if it is right", err)
	}
	r, err := c.UpdateService(ctx, &controlpb.UpdateServiceRequest{Service: req.GetService(), Version: req.GetVersion(), Spec: req.GetSpec(), Plan: true})
	if err != nil {
		return err
	}
	req.Signed, err = s.sign(ctx, c, req.GetSpec(), r.GetPlanned(), base)
	req.Spec = r.GetPlanned()
	return err
}

// base returns what is signed, if that is what was there, and nothing that this machine
// signed or saw is newer: who answers could show what deployers left behind. Nil: not so.
func (s *signer) base(was *schedulerpb.ServiceSpec, signed []byte) (*lockpb.Statement, error) {
	st, err := s.signedAs(was, signed)
	if err != nil {
		return nil, err
	}
	last, err := s.memory.LastSigned(st.GetClusterId(), st.GetService())
	if err != nil {
		return nil, err
	}
	if st.GetSerial() < last {
		return nil, fmt.Errorf("it was signed %s, and this machine knows of something signed %s", signedAt(st.GetSerial()), signedAt(last))
	}
	return st, nil
}

// signedAs returns what is signed, if that is what was there.
func (s *signer) signedAs(was *schedulerpb.ServiceSpec, signed []byte) (*lockpb.Statement, error) {
	if len(signed) == 0 {
		return nil, lock.ErrUnsigned
	}
	sig, err := lock.Read(signed)
	if err != nil {
		return nil, err
	}
	st, err := s.chain.Verify(s.now(), sig.GetStatement())
	if err != nil {
		return nil, err
	}
	replicas := spec.Size(was)
	if s.flags.replicas.set { // the deployer says how many
		replicas = 0
	}
	return st, lock.Describes(st, was.GetName(), was.GetLabels(), spec.PerNode(was), replicas, was.GetTask())
}

func signedAt(serial int64) string { return time.UnixMilli(serial).UTC().Format(time.RFC3339) }

// pinned refuses an image that managers would choose.
func pinned(sp *schedulerpb.ServiceSpec) error {
	if image := sp.GetTask().GetContainer().GetImage(); !strings.Contains(image, "@sha256:") {
		return usagef("image %q: name it by its digest (NAME@sha256:…), as what is signed is not left to a manager to look up", image)
	}
	return nil
}

// sign makes what a service carries, after base, which is nil where nothing was signed.
func (s *signer) sign(ctx context.Context, c *api, asked, planned *schedulerpb.ServiceSpec, base *lockpb.Statement) ([]byte, error) {
	if err := sameBut(asked, planned); err != nil {
		return nil, err
	}
	n := spec.Size(planned)
	if s.flags.replicas.set {
		if s.flags.replicas.n < n || spec.PerNode(planned) {
			return nil, usagef("--sign-replicas %d: it is for replicated services, and not less than their replicas", s.flags.replicas.n)
		}
		n = s.flags.replicas.n
	}
	now := s.now()
	st := &lockpb.Statement{Service: planned.GetName(), Labels: planned.GetLabels(), Global: spec.PerNode(planned), MaxReplicas: n,
		Task: planned.GetTask(), Serial: max(now.UnixMilli(), base.GetSerial()+1)}
	if s.flags.valid > 0 {
		st.NotAfter = now.Add(s.flags.valid).Unix()
	}
	if err := s.files(ctx, c, st, asked, base); err != nil {
		return nil, err
	}
	signed, err := lock.Sign(s.chain, st, s.key)
	if err != nil {
		return nil, err
	}
	s.tell(base, st)
	// Before anybody is shown it: a base older than this is one that was left behind.
	if err := s.memory.RememberSigned(ctx, s.chain.Head().GetClusterId(), st.GetService(), st.GetSerial()); err != nil {
		return nil, err
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(signed)
}

// tell says what the change goes on from, and what it changes.
func (s *signer) tell(base, st *lockpb.Statement) {
	if base == nil {
		return
	}
	fmt.Fprintf(s.say, "redoubt: %s was signed %s; now signed:\n", printable(st.GetService()), signedAt(base.GetSerial()))
	was, is := proto.CloneOf(base), proto.CloneOf(st)
	was.Serial, is.Serial, was.ClusterId = 0, 0, ""
	changes := audit.Compare(was, is)
	for _, f := range changes {
		fmt.Fprintf(s.say, "  %s: %s -> %s\n", printable(f.GetPath()), printable(cmp.Or(f.GetOld(), "none")), printable(cmp.Or(f.GetNew(), "none")))
	}
	if len(changes) == 0 {
		fmt.Fprintln(s.say, "  nothing else than before")
	}
}

// sameBut returns an error unless planned is what was asked for, with ids for names,
// chosen ports for none, and the digest that the image's name has in it.
func sameBut(asked, planned *schedulerpb.ServiceSpec) error {
	errOther := errors.New("the manager would store another service than was asked for: nothing was signed")
	if planned == nil {
		return errOther
	}
	want := spec.Normalize(asked)
	t, p := want.GetTask(), planned.GetTask()
	c, pc := t.GetContainer(), p.GetContainer()
	if len(t.GetNetworks()) != len(p.GetNetworks()) || len(t.GetPorts()) != len(p.GetPorts()) || len(c.GetSecrets()) != len(pc.GetSecrets()) ||
		len(c.GetConfigs()) != len(pc.GetConfigs()) || (c.GetRegistryAuth() == "") != (pc.GetRegistryAuth() == "") {
		return errOther
	}
	resolved := true // ids stand for themselves
	resolves := func(asked, got string) { resolved = resolved && (asked == got || !ident.Valid(asked)) }
	for i, u := range t.GetNetworks() {
		resolves(u.GetNetwork(), p.GetNetworks()[i].GetNetwork())
		u.Network = p.GetNetworks()[i].GetNetwork()
	}
	for i, q := range t.GetPorts() {
		if q.Published == 0 {
			q.Published = p.GetPorts()[i].GetPublished()
		}
	}
	uses, puses := append(c.GetSecrets()[:len(c.GetSecrets()):len(c.GetSecrets())], c.GetConfigs()...), append(pc.GetSecrets()[:len(pc.GetSecrets()):len(pc.GetSecrets())], pc.GetConfigs()...)
	for i, u := range uses {
		is := puses[i]
		resolves(u.GetSource(), is.GetSource())
		switch name := is.GetTarget(); {
		case u.Target == "" && ident.Valid(u.Source) && ident.CheckName(name) == nil: // its name is the managers' to say, and a name alone
			u.Target = name
		case u.Target == "":
			u.Target = u.Source
		}
		u.Source = is.GetSource()
	}
	resolves(c.GetRegistryAuth(), pc.GetRegistryAuth())
	_, c.Digest, _ = strings.Cut(c.GetImage(), "@")
	c.RegistryAuth, t.Platforms = pc.GetRegistryAuth(), p.GetPlatforms()
	if !resolved || !proto.Equal(want, planned) {
		return errOther
	}
	return nil
}
