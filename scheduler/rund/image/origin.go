package image

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/redoubt-cluster/redoubt/secrets/credential"
)

// FromRegistry reports whether the repository that ref names has content of this
// digest: it came from there to this node, or the registry says so now. What was loaded,
// or came under another name, says nothing of that. cred, if not nil, is shown to the
// registry. there is false without an error where the registry does not have it.
func (s *Store) FromRegistry(ctx context.Context, ref, dgst string, cred *credential.Credential) (there bool, err error) {
	pinned, want, err := pin(ref, dgst)
	if err != nil {
		return false, err
	}
	if came, err := s.came(ctx, pinned); err != nil || came {
		return came, err
	}
	if cred, err = shown(cred, pinned); err != nil {
		return false, err
	}
	leave, err := s.slot(ctx)
	if err != nil {
		return false, err
	}
	defer leave()
	ctx, cancel := context.WithTimeoutCause(ctx, evidenceTimeout, fmt.Errorf("its registry did not answer within %s", evidenceTimeout))
	defer cancel()
	resolver := s.registries.resolver(cred)
	err = retry(ctx, nil, func() error {
		_, desc, err := resolver.Resolve(ctx, pinned.String())
		there = err == nil && desc.Digest == want
		return err
	})
	switch {
	case err == nil:
		return there, nil
	case errdefs.IsNotFound(err):
		return false, nil
	case ctx.Err() != nil:
		return false, fmt.Errorf("image %s: %w", ref, context.Cause(ctx))
	}
	return false, explain(ref, err)
}

// Came is FromRegistry by what is known here: no registry is asked.
func (s *Store) Came(ctx context.Context, ref, dgst string) (bool, error) {
	pinned, _, err := pin(ref, dgst)
	if err != nil {
		return false, err
	}
	return s.came(ctx, pinned)
}

func (s *Store) came(ctx context.Context, pinned reference.Canonical) (bool, error) {
	list, err := s.client.ImageService().List(ctx, "target.digest=="+pinned.Digest().String())
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(list, func(i images.Image) bool { return pulledFrom(i, pinned) }), nil
}

// CameFrom has an image that is here be known as the repository's that ref names, so
// that the registry is not asked again.
func (s *Store) CameFrom(ctx context.Context, ref, dgst string) error {
	pinned, want, err := pin(ref, dgst)
	if err != nil {
		return err
	}
	list, err := s.client.ImageService().List(ctx, "target.digest=="+want.String())
	if err != nil || len(list) == 0 {
		return err
	}
	_, err = s.client.ImageService().Create(ctx, images.Image{Name: pinned.String(), Target: list[0].Target})
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// pulledFrom reports whether an image's record is of what pull brought from that
// repository.
func pulledFrom(i images.Image, pinned reference.Canonical) bool {
	named, err := reference.ParseNamed(i.Name)
	return err == nil && i.Labels[labelLoaded] == "" && named.Name() == pinned.Name() && i.Target.Digest == pinned.Digest()
}

// pin is the reference by its digest alone, as pull names images.
func pin(ref, dgst string) (reference.Canonical, digest.Digest, error) {
	named, err := parse(ref)
	if err != nil {
		return nil, "", err
	}
	want, err := parseDigest(dgst)
	if err != nil {
		return nil, "", err
	}
	pinned, err := reference.WithDigest(reference.TrimNamed(named), want)
	if err != nil {
		return nil, "", rejectf("image %s: %w", named, err)
	}
	return pinned, want, nil
}
