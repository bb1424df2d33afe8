package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxPlatforms bounds what is said of one image.
const maxPlatforms = 16

// platformsOf lists the machines, os/arch, that a registry's image is made for.
func platformsOf(ctx context.Context, from remotes.Fetcher, desc ocispec.Descriptor) ([]string, error) {
	var list []ocispec.Platform
	switch {
	case images.IsIndexType(desc.MediaType):
		var index ocispec.Index
		if err := fetchJSON(ctx, from, desc, &index); err != nil {
			return nil, err
		}
		for _, m := range index.Manifests {
			if m.Platform == nil {
				return nil, nil // it may be made for anything
			}
			list = append(list, *m.Platform)
		}
	case images.IsManifestType(desc.MediaType):
		var manifest ocispec.Manifest
		if err := fetchJSON(ctx, from, desc, &manifest); err != nil {
			return nil, err
		}
		var config ocispec.Platform
		if err := fetchJSON(ctx, from, manifest.Config, &config); err != nil {
			return nil, err
		}
		list = append(list, config)
	}
	var out []string
	for _, p := range list {
		name := p.OS + "/" + p.Architecture
		// An index also holds statements about the images, for unknown/unknown.
		if p.OS == "" || p.Architecture == "" || p.OS == "unknown" || slices.Contains(out, name) {
			continue
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return out[:min(len(out), maxPlatforms)], nil
}

// fetchJSON reads a manifest, index or configuration of the digest it must have.
func fetchJSON(ctx context.Context, from remotes.Fetcher, desc ocispec.Descriptor, into any) error {
	if desc.Size < 0 || desc.Size > maxMetadata {
		return tooMuchMetadata()
	}
	r, err := from.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxMetadata))
	if err != nil {
		return err
	}
	if got := desc.Digest.Algorithm().FromBytes(b); got != desc.Digest {
		return fmt.Errorf("the registry gave %s instead of %s", got, desc.Digest)
	}
	return json.Unmarshal(b, into)
}
