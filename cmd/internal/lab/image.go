package lab

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// DemoImage is the name of the image that WriteImage makes.
const DemoImage = "redoubt.lab/demo:1"

// WriteImage writes an archive of the demo image: one static binary, nothing
// else, running as an ordinary user.
func WriteImage(archive, binDir string) (err error) {
	app, err := os.ReadFile(filepath.Join(binDir, "redoubt-demoapp"))
	if err != nil {
		return fmt.Errorf("%w: build it with `go build -o %s ./cmd/redoubt-demoapp`", err, binDir)
	}
	img, err := demoImage(app)
	if err != nil {
		return err
	}
	tag, err := name.NewTag(DemoImage, name.StrictValidation)
	if err != nil {
		return err
	}
	f, err := os.Create(archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return tarball.Write(tag, img, f)
}

func demoImage(app []byte) (v1.Image, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, d := range []string{"tmp/", "etc/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d, Mode: 0o755}); err != nil {
			return nil, err
		}
	}
	passwd := []byte("root:x:0:0::/:/none\napp:x:1000:1000::/:/none\n")
	for file, data := range map[string][]byte{"etc/passwd": passwd} {
		if err := addFile(w, file, data, 0o644); err != nil {
			return nil, err
		}
	}
	if err := addFile(w, "demoapp", app, 0o755); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", runtime.GOARCH
	cfg.Config.Entrypoint = []string{"/demoapp"}
	cfg.Config.User = "app"
	cfg.Config.ExposedPorts = map[string]struct{}{"80/tcp": {}}
	return mutate.ConfigFile(img, cfg)
}

func addFile(w *tar.Writer, file string, data []byte, mode int64) error {
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: file, Mode: mode, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}
