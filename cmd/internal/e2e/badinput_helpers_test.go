package e2e

import (
	"archive/tar"
	"bytes"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"os/exec"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// foreignArchive is a docker-save archive of an image for a processor that
// nothing here has.
func foreignArchive(t *testing.T) []byte {
	t.Helper()
	cfg := &v1.ConfigFile{OS: "linux", Architecture: "s390x", RootFS: v1.RootFS{Type: "layers"}}
	cfg.Config.Entrypoint = []string{"/x"}
	img, err := mutate.ConfigFile(empty.Image, cfg)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tarball.Write(name.MustParseReference("redoubt.lab/foreign:1"), img, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// escapingArchive is the demo image with entries that lead out of any
// directory it might be unpacked to, by name and by symbolic link, to path.
func escapingArchive(t *testing.T, path string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h *tar.Header, data string) {
		h.Size = int64(len(data))
		h.Mode = 0o644
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	put(&tar.Header{Name: strings.Repeat("../", 12) + path[1:], Typeflag: tar.TypeReg}, "out")
	put(&tar.Header{Name: path, Typeflag: tar.TypeReg}, "out")
	put(&tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: filepath.Dir(path)}, "")
	put(&tar.Header{Name: "link/" + filepath.Base(path), Typeflag: tar.TypeReg}, "out")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// holdPort has a process on a host listen on a TCP port until stop is called.
func (c *cluster) holdPort(host, port string) (stop func()) {
	c.t.Helper()
	demo := filepath.Join(binDir, "redoubt-demoapp")
	cmd := exec.Command(filepath.Join(binDir, "redoubt"), "lab", "exec", "--name", c.name, host, "--", demo, "--listen", ":"+port)
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	address := net.JoinHostPort(c.host(host).Address, port)
	eventually(c.t, 20*time.Second, func() string {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return err.Error()
		}
		conn.Close()
		return ""
	})
	return func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
}
