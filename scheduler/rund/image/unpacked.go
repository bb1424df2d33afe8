package image

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// small reads manifests, indexes and configurations, which are read whole. What
// a descriptor says of the size is not believed.
type small struct{ content.Store }

func (s small) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	ra, err := s.Store.ReaderAt(ctx, desc)
	if err == nil && ra.Size() > maxMetadata {
		ra.Close()
		return nil, tooMuchMetadata()
	}
	return ra, err
}

// looked is small for who looks whether layers are there, which are opened for it
// and not read.
type looked struct{ small }

func (l looked) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if images.IsLayerType(desc.MediaType) {
		return l.Store.ReaderAt(ctx, desc)
	}
	return l.small.ReaderAt(ctx, desc)
}

func tooMuchMetadata() error {
	return rejectf("image has a manifest, index or configuration of more than %d bytes", maxMetadata)
}

// measure refuses an image whose layers unpack to more than the limit. A layer
// of a few bytes may be terabytes once it is decompressed, or once its sparse
// files are written out, so each is read through and its files are added up
// before anything is written.
func (s *Store) measure(ctx context.Context, img containerd.Image) error {
	leave, err := s.slot(ctx) // decompressing takes memory
	if err != nil {
		return err
	}
	defer leave()
	cs := img.ContentStore()
	m, err := images.Manifest(ctx, small{cs}, img.Target(), Platform)
	if err != nil {
		return err
	}
	if len(m.Layers) > maxLayers {
		return rejectf("image has %d layers: at most %d are allowed", len(m.Layers), maxLayers)
	}
	left := s.maxBytes
	for _, l := range m.Layers {
		ra, err := cs.ReaderAt(ctx, l)
		if err != nil {
			return err
		}
		in := &bounded{r: content.NewReader(ra), left: ra.Size() + 1}
		size, err := unpackedSize(in, left)
		ra.Close()
		switch {
		case errors.Is(err, errTooLarge):
			return rejectf("image is larger than %d bytes when it is unpacked (rund.limits.image_bytes)", s.maxBytes)
		case err != nil && in.failed != nil: // the store's, not the layer's
			return in.failed
		case err != nil:
			return rejectf("layer %s is malformed: %w", l.Digest, err)
		}
		left -= size
	}
	return nil
}

// unpackedSize adds up what a layer's entries take on disk, or fails with
// errTooLarge when that, or the decompressed stream, exceeds limit.
func unpackedSize(layer io.Reader, limit int64) (total int64, err error) {
	head := bufio.NewReader(layer)
	magic, err := head.Peek(16)
	if err != nil && err != io.EOF {
		return 0, err
	}
	var plain io.Reader = head
	switch compression.DetectCompression(magic) {
	case compression.Gzip: // not by DecompressStream: it may start a program
		if plain, err = gzip.NewReader(head); err != nil {
			return 0, err
		}
	case compression.Zstd:
		z, err := compression.DecompressStream(head)
		if err != nil {
			return 0, err
		}
		defer z.Close()
		plain = z
	}
	stream := &bounded{r: plain, left: limit + maxPadding, max: limit}
	for t := tar.NewReader(stream); ; {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, err
		}
		if h.Size < 0 {
			return 0, fmt.Errorf("%q has a negative size", h.Name)
		}
		// An entry takes an inode, whatever it holds.
		if h.Size > limit || total > limit-h.Size-entryBytes {
			return 0, errTooLarge
		}
		total += h.Size + entryBytes
	}
	_, err = io.Copy(io.Discard, stream) // what follows is read when it is unpacked
	return total, err
}
