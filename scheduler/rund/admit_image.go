package rund

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/trustedfile"
	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/credential"
)

// admission is which images may become containers here: what the node's own policy
// says, which its root wrote, and what the cluster's says, which managers tell. Both
// must admit an image.
type admission struct {
	own *imagepolicy.Policy // nil: the node has none

	mu      sync.Mutex
	text    string              // of the cluster's. Guarded by mu
	cluster *imagepolicy.Policy // nil: there is none. Guarded by mu
	broken  error               // why the cluster's is not understood. Guarded by mu
}

// newAdmission reads the node's own policy from path; "": there is none.
func newAdmission(path string) (*admission, error) {
	a := &admission{}
	if path == "" {
		return a, nil
	}
	text, err := trustedfile.Read(path, imagepolicy.MaxDocument)
	if err != nil {
		return nil, fmt.Errorf("rund.image_policy: %w", err)
	}
	if a.own, err = imagepolicy.Parse(text); err != nil {
		return nil, fmt.Errorf("rund.image_policy %s: %w", path, err)
	}
	return a, nil
}

// set takes the cluster's. What is not understood admits nothing: this version may be
// older than the policy.
func (a *admission) set(text []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.text == string(text) {
		return
	}
	a.text, a.cluster, a.broken = string(text), nil, nil
	if len(text) > 0 {
		a.cluster, a.broken = imagepolicy.Parse(text)
	}
}

// inForce lists the policies, and a name that changes with them.
func (a *admission) inForce() (list []*imagepolicy.Policy, name string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.broken != nil {
		return nil, "", fmt.Errorf("no image is admitted, as this node does not understand the cluster's image policy: %w", a.broken)
	}
	for _, p := range []*imagepolicy.Policy{a.own, a.cluster} {
		if p != nil {
			list = append(list, p)
			name += p.Digest() + " "
		}
	}
	return list, name + ".", nil
}

// admitted is that a policy was asked about an image.
type admitted struct {
	under string // the policies that were in force
	// fetched are the bundles that its registry has and that count: to be kept once
	// the image is here.
	fetched [][]byte
	// byName: its registry has it, as nothing but the name says what it is.
	byName bool
}

// admit asks the policies in force about a container's image. What they refuse is
// rejected; other errors are worth another attempt. Bundles that are here will do,
// else the registry is asked.
func (s *Server) admit(ctx context.Context, c *taskpb.ContainerSpec, cred *credential.Credential, note func(string)) (*admitted, error) {
	list, name, err := s.admission.inForce()
	if err != nil {
		return nil, err
	}
	out := &admitted{under: name}
	var rules []*imagepolicy.Rule
	var byName *imagepolicy.Rule
	for _, p := range list {
		rule, err := p.Decide(c.GetImage())
		if err != nil {
			return nil, refused(c, err)
		}
		if rule.NeedsEvidence() {
			rules = append(rules, rule)
		}
		if rule.NeedsOrigin() {
			byName = rule
		}
	}
	if len(rules) > 0 {
		if out.fetched, err = s.vouched(ctx, c, rules, cred, note); err != nil {
			return nil, err
		}
	}
	if byName != nil {
		there, err := s.images.FromRegistry(ctx, c.GetImage(), c.GetDigest(), cred)
		if err != nil {
			return nil, err
		}
		if !there {
			return nil, refused(c, byName.NotThere(c.GetDigest()))
		}
		out.byName = true
	}
	return out, nil
}

// vouched asks for what rules want beside an image, and gives the bundles that its
// registry had to be asked for.
func (s *Server) vouched(ctx context.Context, c *taskpb.ContainerSpec, rules []*imagepolicy.Rule, cred *credential.Credential, note func(string)) ([][]byte, error) {
	kept, err := s.images.Kept(ctx, c.GetDigest())
	if err != nil {
		return nil, err
	}
	if verify(rules, c.GetDigest(), kept) == nil {
		return nil, nil
	}
	note("asking for the signatures of image " + c.GetImage())
	found, asking := s.images.Beside(ctx, c.GetImage(), c.GetDigest(), cred)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if asking != nil {
		found.Left = append(found.Left, strings.TrimPrefix(asking.Error(), "image "+c.GetImage()+": "))
	}
	found.Add(kept)
	if err := verify(rules, c.GetDigest(), found); err != nil && asking != nil && !image.IsRejected(asking) {
		return nil, fmt.Errorf("image %s: %w", c.GetImage(), err) // the registry may answer another time
	} else if err != nil {
		return nil, refused(c, err)
	}
	return found.Bundles, nil
}

func verify(rules []*imagepolicy.Rule, digest string, e imagepolicy.Evidence) error {
	for _, r := range rules {
		if err := r.Verify(digest, e, time.Now()); err != nil {
			return err
		}
	}
	return nil
}

func refused(c *taskpb.ContainerSpec, err error) error {
	return rejected(fmt.Errorf("image %s: %w", c.GetImage(), err))
}

// keep has what the registry answered stay with the image. Without it the registry is
// asked again.
func (s *Server) keep(ctx context.Context, c *taskpb.ContainerSpec, a *admitted) {
	if a.byName {
		if err := s.images.CameFrom(ctx, c.GetImage(), c.GetDigest()); err != nil && ctx.Err() == nil {
			s.log.Warn("cannot note where an image is from", "image", c.GetImage(), "err", err)
		}
	}
	if len(a.fetched) == 0 {
		return
	}
	if err := s.images.Keep(ctx, c.GetDigest(), a.fetched); err != nil && ctx.Err() == nil {
		s.log.Warn("cannot keep an image's signatures", "image", c.GetImage(), "err", err)
	}
}

// still reports whether what a container was made from is admitted now, where the
// policies are others than when it was made.
func (w *worker) still(ctx context.Context) error {
	_, name, err := w.s.admission.inForce()
	if err != nil || w.admitted == name {
		return err
	}
	if w.made == nil {
		return errors.New("it is not known what the container was made from")
	}
	a, err := w.s.admit(ctx, w.made.GetSpec().GetContainer(), w.shows(), w.note)
	if err == nil {
		w.admitted = a.under
	}
	return err
}
