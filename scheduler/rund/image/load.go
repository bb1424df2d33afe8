package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Import loads every image of an OCI-layout or docker-save tar and returns
// their names and digests. Names appear only when all of them are complete and
// fit this machine; otherwise nothing of the archive stays.
func (s *Store) Import(ctx context.Context, r io.Reader) (map[string]string, error) {
	// What is written under the lease and not named at the end is collected.
	ctx, done, err := s.client.WithLease(ctx)
	if err != nil {
		return nil, err
	}
	defer done(context.WithoutCancel(ctx))

	in := &bounded{r: r, left: s.maxBytes, max: s.maxBytes}
	index, err := archive.ImportIndex(ctx, s.client.ContentStore(), in)
	if err != nil {
		return nil, brokenArchive(ctx, in, err)
	}
	list, bundles, err := s.archived(ctx, index)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, i := range list {
		if err := s.complete(ctx, i); err != nil {
			return nil, err
		}
	}
	for _, i := range list {
		if err := s.refer(ctx, i.Target.Digest, bundles[i.Target.Digest]); err != nil {
			return nil, err
		}
		if err := s.record(ctx, i); err != nil {
			return nil, err
		}
		names[i.Name] = i.Target.Digest.String()
	}
	return names, nil
}

// archived lists the named images of an archive's index, and the bundles that are
// about a digest.
func (s *Store) archived(ctx context.Context, index ocispec.Descriptor) ([]images.Image, map[digest.Digest][]digest.Digest, error) {
	b, err := content.ReadBlob(ctx, small{s.client.ContentStore()}, index)
	if err != nil {
		return nil, nil, err
	}
	var idx ocispec.Index
	if err := json.Unmarshal(b, &idx); err != nil {
		return nil, nil, rejectf("the archive's index.json is malformed: %w", err)
	}
	var list []images.Image
	bundles := map[digest.Digest][]digest.Digest{}
	for _, m := range idx.Manifests {
		name := m.Annotations[images.AnnotationImageName]
		if name == "" {
			name = m.Annotations[ocispec.AnnotationRefName]
		}
		if name == "" {
			if err := s.attached(ctx, m, bundles); err != nil {
				return nil, nil, err
			}
			continue
		}
		if name, err = Normalize(name); err != nil {
			return nil, nil, err
		}
		list = append(list, images.Image{Name: name, Target: m, Labels: map[string]string{labelLoaded: "true"}})
	}
	switch {
	case len(list) == 0:
		return nil, nil, rejectf("the archive names no image: save it by name, as in docker save NAME:TAG")
	case len(list) > maxLoaded:
		return nil, nil, rejectf("the archive holds %d images: at most %d are allowed", len(list), maxLoaded)
	}
	return list, bundles, nil
}

// complete checks that everything this machine needs of an image is there, and
// ties its parts together for containerd's garbage collector.
func (s *Store) complete(ctx context.Context, i images.Image) error {
	cs := small{s.client.ContentStore()}
	m, err := images.Manifest(ctx, cs, i.Target, Platform)
	switch {
	case IsRejected(err):
		return err
	case errdefs.IsNotFound(err):
		return rejectf("image %s in the archive is not made for %s", i.Name, platformName)
	case err != nil:
		return rejectf("image %s in the archive is malformed: %w", i.Name, err)
	}
	// Layers are not read here, so they may be as large as they are.
	for _, part := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		switch _, err := cs.Info(ctx, part.Digest); {
		case errdefs.IsNotFound(err):
			return rejectf("image %s in the archive lacks %s: save it again", i.Name, part.Digest)
		case err != nil:
			return err
		}
	}
	if err := checkPlatform(ctx, s.client, i.Target); err != nil {
		return rejectf("image %s in the archive: %w", i.Name, err)
	}
	handler := images.SetChildrenLabels(cs, images.FilterPlatforms(images.ChildrenHandler(cs), Platform))
	if err := images.Walk(ctx, handler, i.Target); err != nil {
		return rejectf("image %s in the archive is malformed: %w", i.Name, err)
	}
	return nil
}

func (s *Store) record(ctx context.Context, i images.Image) error {
	is := s.client.ImageService()
	_, err := is.Create(ctx, i)
	if errdefs.IsAlreadyExists(err) {
		// Other labels stay: one of them keeps the remapped file system.
		_, err = is.Update(ctx, i, "target", "labels."+labelLoaded)
	}
	return err
}

// errTooLarge ends a stream that exceeds the limit.
var errTooLarge = errors.New("too large")

type bounded struct {
	r         io.Reader
	left, max int64
	failed    error // of r itself
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		b.failed = errTooLarge
		return 0, errTooLarge
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if err != nil && err != io.EOF {
		b.failed = err
	}
	return n, err
}

// brokenArchive tells what is wrong with the archive from what is wrong with
// the way it came.
func brokenArchive(ctx context.Context, in *bounded, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(in.failed, errTooLarge):
		return rejectf("the archive is larger than %d bytes (rund.limits.image_bytes)", in.max)
	case in.failed != nil:
		return in.failed
	case errdefs.IsUnavailable(err), errdefs.IsCanceled(err):
		return err
	case strings.Contains(err.Error(), unix.ENOSPC.Error()): // it came over containerd's socket, as text
		return fmt.Errorf("containerd's disk is full: free some of it and load the image again (%s)", firstLine(err))
	case errors.Is(err, tar.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF), strings.Contains(err.Error(), "unexpected EOF"):
		return rejectf("not a complete tar archive: save the image again")
	}
	return rejectf("not an image archive (OCI layout or docker save): %w", fmt.Errorf("%s", firstLine(err)))
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
