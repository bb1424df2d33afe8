package spec

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// Admitted is a spec that was normalized and validated. It can be had from Admit
// alone, so who is given one need not look again.
type Admitted struct{ spec *schedulerpb.ServiceSpec }

// Admit normalizes a copy of s and validates it.
func Admit(s *schedulerpb.ServiceSpec) (Admitted, error) {
	s = Normalize(s)
	if err := Validate(s); err != nil {
		return Admitted{}, err
	}
	return Admitted{s}, nil
}

// Spec is shared: do not modify it.
func (a Admitted) Spec() *schedulerpb.ServiceSpec { return a.spec }

// Pin returns a with the digest that its image was resolved to, and the machines
// that image is made for, empty for not known.
func (a Admitted) Pin(digest string, platforms []string) (Admitted, error) {
	if digest == a.spec.GetTask().GetContainer().GetDigest() && slices.Equal(platforms, a.spec.GetTask().GetPlatforms()) {
		return a, nil
	}
	if err := validatePlatforms(platforms); err != nil {
		platforms = nil // the registry's word, and a help only
	}
	image := a.spec.GetTask().GetContainer().GetImage()
	if !digestRule.MatchString(digest) {
		return Admitted{}, fmt.Errorf("image digest %q: use sha256: and 64 hexadecimal digits", clip(digest))
	}
	// Whatever stands after the @ of a valid reference is its digest.
	if _, own, ok := strings.Cut(image, "@"); ok && own != digest {
		return Admitted{}, fmt.Errorf("image %q was resolved to another digest than it names: %s", clip(image), digest)
	}
	s := proto.CloneOf(a.spec)
	s.Task.Container.Digest, s.Task.Platforms = digest, platforms
	if n := proto.Size(s); n > MaxSpecBytes {
		return Admitted{}, fmt.Errorf("the service is %d bytes long in all: at most %d are allowed", n, MaxSpecBytes)
	}
	return Admitted{s}, nil
}
