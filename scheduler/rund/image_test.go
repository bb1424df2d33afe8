package rund

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundtest"
)

func mutateEnv(img v1.Image, env string) (v1.Image, error) {
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.Config.Env = append(cf.Config.Env, env)
	return mutate.ConfigFile(img, cf)
}

func mustAtoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// testRegistry serves TLS on loopback and returns its host and CA file.
func testRegistry(t *testing.T) (host, caFile string, push func(ref string, img v1.Image) string) {
	t.Helper()
	return testRegistryAs(t, "", "")
}

// testRegistryAs serves who shows this password; empty: anybody.
func testRegistryAs(t *testing.T, user, password string, options ...registry.Option) (host, caFile string, push func(ref string, img v1.Image) string) {
	t.Helper()
	plain := registry.New(append(options, registry.Logger(log.New(io.Discard, "", 0)))...)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		plain.ServeHTTP(w, r)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	host = strings.TrimPrefix(srv.URL, "https://")
	caFile = filepath.Join(base, "ca-"+strings.ReplaceAll(host, ":", "-")+".pem")
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(caFile, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return host, caFile, func(ref string, img v1.Image) string {
		t.Helper()
		r, err := name.ParseReference(host + "/" + ref)
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}}
		if err := remote.Write(r, img, remote.WithTransport(transport), remote.WithAuth(&authn.Basic{Username: user, Password: password})); err != nil {
			t.Fatal(err)
		}
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d.String()
	}
}

func TestPull(t *testing.T) {
	host, ca, push := testRegistry(t)
	img, err := mutateEnv(probeImage, "FROM=registry")
	if err != nil {
		t.Fatal(err)
	}
	digest := push("app/probe:1", img)
	n := newNode(t, func(c *Config) { c.Registries = map[string]image.Registry{host: {CAFile: ca}} })

	ref := host + "/app/probe:1"
	res, err := n.client.ResolveImage(n.ctx(), &rundpb.ResolveImageRequest{Reference: ref})
	if err != nil || res.GetDigest() != digest || res.GetLoaded() {
		t.Fatalf("resolve: %v %v, want %s", res, err, digest)
	}
	d := n.desired("env", "FROM")
	d.Spec.Container.Image, d.Spec.Container.Digest = ref, digest
	// The tag moves on; the digest stays what it was.
	push("app/probe:1", probeImage)
	if out := n.output(d); !strings.Contains(out, "FROM=registry") {
		t.Errorf("output %q", out)
	}

	foreign, err := rundtest.BuildImage([]rundtest.File{{Name: "x", Mode: 0o755}}, v1.Config{Cmd: []string{"/x"}}, "s390x")
	if err != nil {
		t.Fatal(err)
	}
	foreignDigest := push("app/foreign:1", foreign)
	for _, c := range []struct{ ref, digest, want string }{
		{host + "/app/probe:1", sum([]byte("no such")), "is not in its registry"},
		{host + "/no/such:1", sum([]byte("no such")), "is not in its registry"},
		{host + "/app/foreign:1", foreignDigest, "made for linux/s390x"},
		{host + "/app/probe:1", "", "without a digest"},
		{host + "/app/probe:1", "sha256:zz", "not sha256"},
		{"UPPER CASE", digest, "image"},
	} {
		d := n.desired()
		d.Spec.Container.Image, d.Spec.Container.Digest = c.ref, c.digest
		n.apply(d)
		a := n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_FAILED)
		if !a.GetRejected() || !strings.Contains(a.GetError(), c.want) {
			t.Errorf("%s@%s: rejected=%v %q, want %q", c.ref, c.digest, a.GetRejected(), a.GetError(), c.want)
		}
	}
}

func TestUntrustedRegistry(t *testing.T) {
	host, _, push := testRegistry(t)
	push("app/probe:1", probeImage)
	_, otherCA, _ := testRegistry(t)
	plain := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(plain.Close)
	// httptest's certificates are all alike, so "another CA" is made up.
	if err := os.WriteFile(otherCA, selfSigned(t), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		host, want string
		registries map[string]image.Registry
	}{
		"system roots": {host, "not trusted", nil},
		"wrong CA":     {host, "not trusted", map[string]image.Registry{host: {CAFile: otherCA}}},
		"no TLS":       {strings.TrimPrefix(plain.URL, "http://"), "HTTP", nil},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, func(cfg *Config) { cfg.Registries = c.registries })
			_, err := n.client.ResolveImage(n.ctx(), &rundpb.ResolveImageRequest{Reference: c.host + "/app/probe:1"})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestImport(t *testing.T) {
	n := newNode(t, func(c *Config) { c.Limits.ImageBytes = 64 << 20 })
	res, err := n.client.ResolveImage(n.ctx(), &rundpb.ResolveImageRequest{Reference: probeRef})
	if err != nil || !res.GetLoaded() || res.GetDigest() != n.digest {
		t.Errorf("a loaded image is not found: %v %v", res, err)
	}
	var good bytes.Buffer
	img, err := mutateEnv(probeImage, "TORN=yes")
	if err != nil {
		t.Fatal(err)
	}
	if err := rundtest.SaveDocker(&good, "redoubt.test/torn:1", img); err != nil {
		t.Fatal(err)
	}
	foreign, err := rundtest.BuildImage([]rundtest.File{{Name: "x", Mode: 0o755}}, v1.Config{Cmd: []string{"/x"}}, "s390x")
	if err != nil {
		t.Fatal(err)
	}
	var foreignTar bytes.Buffer
	if err := rundtest.SaveDocker(&foreignTar, "redoubt.test/torn:2", foreign); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		r    io.Reader
		want string
	}{
		"empty":        {strings.NewReader(""), "not an image archive"},
		"noise":        {strings.NewReader(strings.Repeat("noise", 1000)), "not a complete tar"},
		"truncated":    {bytes.NewReader(good.Bytes()[:good.Len()/2]), "not a complete tar"},
		"wrong arch":   {&foreignTar, "made for linux/s390x"},
		"too large":    {io.LimitReader(endless{}, 65<<20), "not a complete tar"},
		"too large 2":  {io.MultiReader(bytes.NewReader(tarHeader(t, 100<<20)), io.LimitReader(endless{}, 100<<20)), "larger than"},
		"no manifests": {bytes.NewReader(tarHeader(t, 0)), "not an image archive"},
	} {
		_, err := n.importTar(c.r)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	probe, err := n.client.Probe(n.ctx(), &rundpb.ProbeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for ref := range probe.GetLoadedImages() {
		if strings.Contains(ref, "torn") {
			t.Errorf("half-imported: %s", ref)
		}
	}
	if resp, err := n.importTar(&good); err != nil || resp.GetImages()["redoubt.test/torn:1"] == "" {
		t.Errorf("a good archive after bad ones: %v %v", resp, err)
	}
	for _, bad := range []string{"", strings.Repeat("a", 600), "no spaces", "ref@sha256:short"} {
		if _, err := n.client.ResolveImage(n.ctx(), &rundpb.ResolveImageRequest{Reference: bad}); err == nil {
			t.Errorf("resolved %q", bad)
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'z'
	}
	return len(p), nil
}
