package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy"
	"github.com/redoubt-cluster/redoubt/secrets/credential"
)

// labelBundle, with a number behind it, has containerd's collector keep a bundle for
// as long as the manifest or index that it is about.
const labelBundle = "containerd.io/gc.ref.content.redoubt.bundle."

// Kept returns the bundles that are here beside the image: those that its archive
// held, or that Keep was given.
func (s *Store) Kept(ctx context.Context, dgst string) (out imagepolicy.Evidence, err error) {
	want, err := parseDigest(dgst)
	if err != nil {
		return out, err
	}
	cs := s.client.ContentStore()
	info, err := cs.Info(ctx, want)
	if errdefs.IsNotFound(err) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	for _, key := range slices.Sorted(maps.Keys(info.Labels)) {
		if !strings.HasPrefix(key, labelBundle) {
			continue
		}
		d, err := digest.Parse(info.Labels[key])
		if err != nil {
			continue
		}
		have, err := cs.Info(ctx, d)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return out, err
		}
		if !takes(&out, have.Size) {
			continue
		}
		b, err := content.ReadBlob(ctx, cs, ocispec.Descriptor{Digest: d, Size: have.Size})
		if err != nil {
			return out, err
		}
		out.Bundles = append(out.Bundles, b)
	}
	return out, nil
}

// Beside asks the image's registry for the bundles that refer to it. cred, if not
// nil, is shown to the registry.
func (s *Store) Beside(ctx context.Context, ref, dgst string, cred *credential.Credential) (out imagepolicy.Evidence, err error) {
	named, err := parse(ref)
	if err != nil {
		return out, err
	}
	want, err := parseDigest(dgst)
	if err != nil {
		return out, err
	}
	if cred, err = shown(cred, named); err != nil {
		return out, err
	}
	leave, err := s.slot(ctx)
	if err != nil {
		return out, err
	}
	defer leave()
	ctx, cancel := context.WithTimeoutCause(ctx, evidenceTimeout, fmt.Errorf("its registry did not answer within %s", evidenceTimeout))
	defer cancel()
	fetcher, err := s.registries.resolver(cred).Fetcher(ctx, named.String())
	if err != nil {
		return out, explain(ref, err)
	}
	referrers, ok := fetcher.(remotes.ReferrersFetcher)
	if !ok {
		return out, errors.New("this version cannot ask a registry for signatures")
	}
	err = retry(ctx, nil, func() error {
		out = imagepolicy.Evidence{}
		list, err := referrers.FetchReferrers(ctx, want, remotes.WithReferrerQueryFilter("artifactType", imagepolicy.BundleType))
		if err != nil {
			return err
		}
		list = slices.DeleteFunc(list, func(m ocispec.Descriptor) bool { return !maybeBundle(m) })
		if len(list) > maxReferrers {
			out.Left = append(out.Left, fmt.Sprintf("only %d of the %d that refer to it are looked at", maxReferrers, len(list)))
		}
		for _, m := range list[:min(len(list), maxReferrers)] {
			if err := beside(ctx, fetcher, m, want, &out); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && ctx.Err() != nil {
		return imagepolicy.Evidence{}, fmt.Errorf("image %s: %w", ref, context.Cause(ctx))
	}
	if err != nil {
		return imagepolicy.Evidence{}, explain(ref, err)
	}
	return out, nil
}

// beside adds the bundles of one manifest that is said to refer to want. What is not
// as it should be is left: anybody may have pushed it.
func beside(ctx context.Context, from remotes.Fetcher, m ocispec.Descriptor, want digest.Digest, out *imagepolicy.Evidence) error {
	var manifest ocispec.Manifest
	if err := fetchJSON(ctx, from, m, &manifest); err != nil {
		return err
	}
	for _, layer := range bundlesOf(&manifest, want) {
		if !takes(out, layer.Size) {
			continue
		}
		b, err := fetchBlob(ctx, from, layer)
		if err != nil {
			return err
		}
		out.Bundles = append(out.Bundles, b)
	}
	return nil
}

// maybeBundle reports whether a referrer may have a bundle: registries need not heed
// what is asked for, and some say the type of its configuration.
func maybeBundle(m ocispec.Descriptor) bool {
	switch m.ArtifactType {
	case "", imagepolicy.BundleType, ocispec.MediaTypeEmptyJSON:
		return images.IsManifestType(m.MediaType) && m.Size <= maxBundleManifest
	}
	return false
}

// bundlesOf lists the bundles of a manifest, if it is one that refers to want.
func bundlesOf(m *ocispec.Manifest, want digest.Digest) (out []ocispec.Descriptor) {
	if m.Subject == nil || m.Subject.Digest != want {
		return nil
	}
	for _, l := range m.Layers {
		if l.MediaType == imagepolicy.BundleType && l.Digest.Validate() == nil && l.Size > 0 {
			out = append(out, l)
		}
	}
	return out
}

// takes reports whether a bundle of so many bytes is looked at.
func takes(e *imagepolicy.Evidence, size int64) bool {
	switch {
	case size > imagepolicy.MaxBundle:
		e.Left = append(e.Left, fmt.Sprintf("a bundle of %d bytes is larger than %d", size, imagepolicy.MaxBundle))
		return false
	case e.Full(size):
		e.Left = append(e.Left, fmt.Sprintf("only %d bundles of %d bytes in all are looked at", imagepolicy.MaxBundles, imagepolicy.MaxEvidence))
		return false
	}
	return true
}

// fetchBlob reads what must have this digest and size.
func fetchBlob(ctx context.Context, from remotes.Fetcher, desc ocispec.Descriptor) ([]byte, error) {
	r, err := from.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, desc.Size+1))
	if err != nil {
		return nil, err
	}
	if got := desc.Digest.Algorithm().FromBytes(b); got != desc.Digest {
		return nil, fmt.Errorf("the registry gave %s instead of %s", got, desc.Digest)
	}
	return b, nil
}

// Keep has bundles stay beside an image that is here, in place of those that were.
func (s *Store) Keep(ctx context.Context, dgst string, bundles [][]byte) error {
	want, err := parseDigest(dgst)
	if err != nil {
		return err
	}
	ctx, done, err := s.client.WithLease(ctx) // until they are referred to
	if err != nil {
		return err
	}
	defer done(context.WithoutCancel(ctx))
	var list []digest.Digest
	for _, b := range bundles {
		d := digest.FromBytes(b)
		desc := ocispec.Descriptor{MediaType: imagepolicy.BundleType, Digest: d, Size: int64(len(b))}
		if err := content.WriteBlob(ctx, s.client.ContentStore(), "redoubt-bundle-"+d.String(), bytes.NewReader(b), desc); err != nil {
			return err
		}
		list = append(list, d)
	}
	return s.refer(ctx, want, list)
}

// refer ties bundles to what they are about, and no others.
func (s *Store) refer(ctx context.Context, want digest.Digest, bundles []digest.Digest) error {
	cs := s.client.ContentStore()
	info, err := cs.Info(ctx, want)
	if err != nil {
		return err
	}
	labels, paths := map[string]string{}, []string{}
	for key := range info.Labels {
		if strings.HasPrefix(key, labelBundle) {
			labels[key] = "" // goes
		}
	}
	for i, d := range bundles[:min(len(bundles), imagepolicy.MaxBundles)] {
		labels[labelBundle+strconv.Itoa(i)] = d.String()
	}
	if len(labels) == 0 {
		return nil
	}
	for key := range labels {
		paths = append(paths, "labels."+key)
	}
	_, err = cs.Update(ctx, content.Info{Digest: want, Labels: labels}, paths...)
	return err
}

// attached notes the bundles of a manifest in an archive by what they are about.
// Others, and those whose parts the archive lacks, mean nothing.
func (s *Store) attached(ctx context.Context, m ocispec.Descriptor, of map[digest.Digest][]digest.Digest) error {
	if !maybeBundle(m) {
		return nil
	}
	cs := s.client.ContentStore()
	b, err := content.ReadBlob(ctx, small{cs}, m)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var manifest ocispec.Manifest
	if json.Unmarshal(b, &manifest) != nil || manifest.Subject == nil {
		return nil
	}
	about := manifest.Subject.Digest
	for _, layer := range bundlesOf(&manifest, about) {
		switch _, err := cs.Info(ctx, layer.Digest); {
		case errdefs.IsNotFound(err):
		case err != nil:
			return err
		default:
			of[about] = append(of[about], layer.Digest)
		}
	}
	return nil
}

func parseDigest(dgst string) (digest.Digest, error) {
	want, err := digest.Parse(dgst)
	if err != nil || want.Algorithm() != digest.SHA256 {
		return "", rejectf("digest %q is not sha256:…", dgst)
	}
	return want, nil
}
