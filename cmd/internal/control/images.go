package control

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/raftstore"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// pin finds the digest that an image's name means, once, so that every task of
// a revision runs the same. In this order: the digest written in the reference;
// that of an image loaded on managers; that of its registry; and where no
// registry has it, that of an image loaded on workers.
//
// The order is one of trust. A worker reports of itself whatever it likes: one
// that was stolen must not say what others run under a name that a manager or a
// registry knows, nor keep an image from being used by disagreeing. Its word
// counts for images that nobody else knows, and is warned of.
func (s *Server) pin(ctx context.Context, image string) (digest string, platforms, warnings []string, err error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", nil, nil, apierr.Invalid("", "image %q is no reference: %v", image, err)
	}
	if d, ok := named.(reference.Digested); ok {
		return d.Digest().String(), nil, nil, nil
	}
	ref := reference.TagNameOnly(named).String()
	managers, workers := map[string][]string{}, map[string][]string{} // digest → hosts
	err = s.view(ctx, func(r *raftstore.ReadTx) error {
		for n := range schedstore.Nodes.All(r) {
			d := n.GetDescription()
			by := workers
			if n.GetManager() {
				by = managers
			}
			if dgst := d.GetLoadedImages()[ref]; dgst != "" {
				by[dgst] = append(by[dgst], d.GetHostname())
			}
		}
		return nil
	})
	if err != nil {
		return "", nil, nil, err
	}
	digest, err = agreed(ref, managers)
	if err != nil {
		return "", nil, nil, err
	}
	if digest == "" {
		var missing error
		within := resolveTimeout
		if len(workers) > 0 {
			within = shortResolveTimeout
		}
		if digest, platforms, missing = s.resolve(ctx, ref, within); missing != nil {
			if digest, err = agreed(ref, workers); err != nil {
				return "", nil, nil, err
			}
			if digest == "" {
				return "", nil, nil, unresolved(ref, missing)
			}
			warnings = append(warnings, fmt.Sprintf("image %s is taken as %s on the word of workers only (%s): load it on a manager as well to be sure",
				ref, digest, hosts(workers[digest])))
		}
	}
	for _, other := range slices.Sorted(maps.Keys(workers)) {
		if other != digest {
			warnings = append(warnings, fmt.Sprintf("%s has another image loaded as %s (%s): it is not used", hosts(workers[other]), ref, other))
		}
	}
	return digest, platforms, warnings, nil
}

// resolve asks the registry, for so long: one that does not answer must not
// use up the time of the whole call.
func (s *Server) resolve(ctx context.Context, ref string, within time.Duration) (string, []string, error) {
	asking, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	digest, platforms, err := s.c.Images.Resolve(asking, ref)
	if err != nil && ctx.Err() == nil && asking.Err() != nil {
		err = fmt.Errorf("its registry did not answer within %s", within)
	}
	return digest, platforms, err
}

// agreed is the digest that all hosts give, or "" where there are none.
func agreed(ref string, hostsOf map[string][]string) (string, error) {
	digests := slices.Sorted(maps.Keys(hostsOf))
	switch len(digests) {
	case 0:
		return "", nil
	case 1:
		return digests[0], nil
	}
	return "", apierr.State("load the same archive on every node, or name the image by its digest",
		"image %s is not the same on %s and on %s", ref, hosts(hostsOf[digests[0]]), hosts(hostsOf[digests[1]]))
}

// hosts lists a few names.
func hosts(names []string) string {
	slices.Sort(names)
	if n := len(names); n > maxHosts {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxHosts], ", "), n-maxHosts)
	}
	return strings.Join(names, ", ")
}

// unresolved says why, with one remedy: rund names the image itself, and the
// remedy where the registry's answer tells it.
func unresolved(ref string, err error) error {
	why := strings.TrimPrefix(err.Error(), "image "+ref)
	if strings.HasPrefix(why, " is ") || strings.HasPrefix(why, ": the registry") {
		return apierr.State("", "image %s%s", ref, why)
	}
	return apierr.State("check the name, load the image on the nodes, or configure its registry",
		"image %s cannot be resolved: %s", ref, strings.TrimPrefix(why, ": "))
}
