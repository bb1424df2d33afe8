package lab

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// demoArchive writes an image around a file that is no program; it is never run.
func demoArchive(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := WriteImage(filepath.Join(dir, "x.tar"), dir); err == nil || !strings.Contains(err.Error(), "go build") {
		t.Fatalf("an image without its program: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "redoubt-demoapp"), []byte("app"), 0o755); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(dir, "demo.tar")
	if err := WriteImage(archive, dir); err != nil {
		t.Fatal(err)
	}
	return archive
}

func TestImageIsAnArchiveOfOneStaticProgram(t *testing.T) {
	tag, err := name.NewTag(DemoImage)
	if err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(demoArchive(t), &tag)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil || cfg.Config.User != "app" || cfg.Config.Entrypoint[0] != "/demoapp" || cfg.OS != "linux" {
		t.Fatalf("%+v, %v", cfg, err)
	}
}

func TestRegistryServesOverTLSOfTheLabOnly(t *testing.T) {
	archive := demoArchive(t)
	if err := Down(t.Context(), "t-reg"); err != nil {
		t.Fatal(err)
	}
	l, err := create(Options{Name: "t-reg", Managers: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Down(context.Background(), l.Name); err != nil {
			t.Error(err)
		}
	})
	if err := l.makeBridge(); err != nil {
		t.Fatal(err)
	}
	if err := l.makeCA(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.ServeRegistry(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	err = await(t.Context(), 30*time.Second, "registry", func(ctx context.Context) error {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", l.registryAddr())
		if err == nil {
			c.Close()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := l.Push(t.Context(), archive, "demo:1")
	if err != nil || !strings.HasPrefix(ref, RegistryName+"/demo:1@sha256:") {
		t.Fatalf("%s, %v", ref, err)
	}
	for _, bad := range []string{"", "demo", "../x:1", "Demo:1"} {
		if _, err := l.Push(t.Context(), archive, bad); err == nil {
			t.Errorf("%q was pushed", bad)
		}
	}
	if fi, err := os.Stat(l.registryKey()); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the registry's key: %v, %v", fi, err)
	}
	// Another CA is not the lab's.
	if err := l.makeCA(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Push(t.Context(), archive, "demo:2"); err == nil {
		t.Error("a registry of another CA was believed")
	}
}
