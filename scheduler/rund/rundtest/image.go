package rundtest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// File is a file of an image; a name that ends in / is a directory.
type File struct {
	Name     string
	Data     []byte
	Mode     int64
	UID, GID int
	// Type is a tar type for what is neither file nor directory: a link to
	// Link, a device of these numbers, a named pipe.
	Type         byte
	Link         string
	Major, Minor int64
}

// BuildStatic compiles a Go package without cgo and returns the program.
func BuildStatic(dir, pkg string) ([]byte, error) {
	out := filepath.Join(dir, "program")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build %s: %w: %s", pkg, err, b)
	}
	return os.ReadFile(out)
}

// BuildImage makes an image of one layer.
func BuildImage(files []File, config v1.Config, arch string) (v1.Image, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.Name, Mode: f.Mode, Uid: f.UID, Gid: f.GID, Size: int64(len(f.Data)), Typeflag: tar.TypeReg}
		if f.Name[len(f.Name)-1] == '/' {
			h.Typeflag = tar.TypeDir
		}
		if f.Type != 0 {
			h.Typeflag, h.Linkname, h.Devmajor, h.Devminor = f.Type, f.Link, f.Major, f.Minor
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	data := b.Bytes()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.Config, cf.OS, cf.Architecture = config, "linux", arch
	return mutate.ConfigFile(img, cf)
}

// SaveDocker writes img as docker save would.
func SaveDocker(w io.Writer, ref string, img v1.Image) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return err
	}
	return tarball.Write(tag, img, w)
}
