package image

import (
	"context"
	"fmt"
	"sync/atomic"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/redoubt-cluster/redoubt/secrets/credential"
)

var (
	// Platform is what images must be made for.
	Platform     = platforms.DefaultStrict()
	platformName = platforms.Format(platforms.DefaultSpec())
)

// pull fetches named@want and gives it that name. cred, if not nil, is shown to its
// registry.
func (s *Store) pull(ctx context.Context, named reference.Named, want digest.Digest, cred *credential.Credential, note func(string)) (containerd.Image, error) {
	cred, err := shown(cred, named)
	if err != nil {
		return nil, err
	}
	note("waiting for other images to be pulled")
	leave, err := s.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	pinned, err := reference.WithDigest(reference.TrimNamed(named), want)
	if err != nil {
		return nil, rejectf("image %s: %w", named, err)
	}
	note("pulling image " + named.String())
	var img containerd.Image
	again := func(err error) { note(explain(named.String(), err).Error() + ": trying again") }
	err = retry(ctx, again, func() (err error) {
		img, err = s.client.Pull(ctx, pinned.String(),
			containerd.WithResolver(s.registries.resolver(cred)),
			containerd.WithPlatformMatcher(Platform),
			containerd.WithMaxConcurrentDownloads(maxParallelLayers),
			containerd.WithImageHandlerWrapper(s.bound))
		return err
	})
	if err != nil {
		return nil, explain(named.String(), err)
	}
	// The content is hashed on arrival; this guards against a resolver that
	// does not honour the pin.
	if got := img.Target().Digest; got != want {
		return nil, rejectf("image %s: the registry gave %s instead of %s", named, got, want)
	}
	if err := checkPlatform(ctx, s.client, img.Target()); err != nil {
		return nil, rejectf("image %s: %w", named, err)
	}
	return img, nil
}

// slot waits for one of the slots of what takes bandwidth or memory.
func (s *Store) slot(ctx context.Context) (leave func(), err error) {
	select {
	case s.pulls <- struct{}{}:
		return func() { <-s.pulls }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// bound refuses an image whose parts together exceed the limit, before they
// are fetched.
func (s *Store) bound(next images.Handler) images.Handler {
	var total atomic.Int64
	return images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if len(desc.URLs) > 0 { // they would be asked without the registry's TLS and limits
			return nil, rejectf("image has parts outside its registry, which is not supported")
		}
		if desc.Size < 0 || desc.Size > s.maxBytes || total.Add(desc.Size) > s.maxBytes {
			return nil, rejectf("image is larger than %d bytes (rund.limits.image_bytes)", s.maxBytes)
		}
		if !images.IsLayerType(desc.MediaType) {
			// The content may be here already, under another size.
			info, err := s.client.ContentStore().Info(ctx, desc.Digest)
			if desc.Size > maxMetadata || err == nil && info.Size > maxMetadata {
				return nil, tooMuchMetadata()
			}
		}
		return next.Handle(ctx, desc)
	})
}

// checkPlatform looks into the configuration of a manifest that was named
// directly, where no index says for which machine it is.
func checkPlatform(ctx context.Context, c *containerd.Client, target ocispec.Descriptor) error {
	cs := small{c.ContentStore()}
	config, err := images.Config(ctx, cs, target, Platform)
	if err != nil {
		return err
	}
	p, err := images.ConfigPlatform(ctx, cs, config)
	if err != nil {
		return err
	}
	if p.OS != "" && p.Architecture != "" && !Platform.Match(p) {
		return fmt.Errorf("it is made for %s, this node is %s", platforms.Format(p), platformName)
	}
	return nil
}
