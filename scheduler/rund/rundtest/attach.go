package rundtest

import (
	"archive/tar"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Attach makes the artifact by which a blob of some media type is beside img, as
// cosign does with bundles.
func Attach(img v1.Image, blob []byte, mediaType string) (v1.Image, error) {
	about, err := partial.Descriptor(img)
	if err != nil {
		return nil, err
	}
	a := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.oci.empty.v1+json")
	if a, err = mutate.AppendLayers(a, static.NewLayer(blob, types.MediaType(mediaType))); err != nil {
		return nil, err
	}
	return mutate.Subject(a, *about).(v1.Image), nil
}

// SaveOCI writes a tar of an OCI layout with img under a name, and what is attached
// to it.
func SaveOCI(w io.Writer, ref string, img v1.Image, attached ...v1.Image) error {
	dir, err := os.MkdirTemp("", "layout-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	if err := l.AppendImage(img, layout.WithAnnotations(map[string]string{"io.containerd.image.name": ref})); err != nil {
		return err
	}
	for _, a := range attached {
		if err := l.AppendImage(a); err != nil {
			return err
		}
	}
	t := tar.NewWriter(w)
	if err := t.AddFS(os.DirFS(dir)); err != nil {
		return err
	}
	return t.Close()
}
