package rund

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy"
	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy/imagepolicytest"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundtest"
)

// signedBy is a policy by which images of a repository need the key's signature.
func signedBy(s *imagepolicytest.Signer, images string, more string) string {
	return fmt.Sprintf("format: 1\nsigners:\n  - name: release\n    keys:\n      - |\n        %s\nrules:\n  - {name: own, images: ['%s'], signatures: {by: [release]}%s}\n",
		imagepolicytest.Indent(s.PEM(), 8), images, more)
}

// signed makes an image that no other test has, and a bundle for it.
func signed(t *testing.T, s *imagepolicytest.Signer, predicate string) (img, bundle v1.Image, dgst string) {
	t.Helper()
	img, err := mutateEnv(probeImage, "UNIQUE="+ident.New())
	if err != nil {
		t.Fatal(err)
	}
	h, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if bundle, err = rundtest.Attach(img, s.Bundle(h.String(), predicate), imagepolicy.BundleType); err != nil {
		t.Fatal(err)
	}
	return img, bundle, h.String()
}

// run starts a task of an image and says how far it came.
func (n *node) run(ref, dgst string) *rundpb.TaskActual {
	n.t.Helper()
	d := n.desired("env", "UNIQUE")
	d.Spec.Container.Image, d.Spec.Container.Digest = ref, dgst
	n.apply(d)
	return n.await(d.GetTaskId(), "its end", func(a *rundpb.TaskActual) bool {
		return a.GetPhase() == rundpb.Phase_PHASE_EXITED || a.GetPhase() == rundpb.Phase_PHASE_FAILED
	})
}

func (n *node) runs(ref, dgst string) {
	n.t.Helper()
	if a := n.run(ref, dgst); a.GetPhase() != rundpb.Phase_PHASE_EXITED || a.GetExitCode() != 0 {
		n.t.Errorf("%s did not run: %s", ref, a.GetError())
	}
}

func (n *node) refuses(ref, dgst, want string) {
	n.t.Helper()
	if a := n.run(ref, dgst); a.GetPhase() != rundpb.Phase_PHASE_FAILED || !a.GetRejected() || !strings.Contains(a.GetError(), want) {
		n.t.Errorf("%s: %s, rejected=%v %q, want %q", ref, a.GetPhase(), a.GetRejected(), a.GetError(), want)
	}
}

// TestAdmissionFromRegistry: bundles beside an image, by the referrers API and by
// the tag that stands for it where there is none.
func TestAdmissionFromRegistry(t *testing.T) {
	for name, api := range map[string]bool{"referrers API": true, "tag schema": false} {
		t.Run(name, func(t *testing.T) {
			host, ca, push := testRegistryAs(t, "", "", registry.WithReferrersSupport(api))
			s, stranger := imagepolicytest.NewSigner(), imagepolicytest.NewSigner()
			n := newNode(t, func(c *Config) { c.Registries = map[string]image.Registry{host: {CAFile: ca}} })
			n.policy = signedBy(s, host+"/app/*", "")
			img, bundle, dgst := signed(t, s, imagepolicytest.Sign)
			ref := host + "/app/probe:1"
			push("app/probe:1", img)
			n.refuses(ref, dgst, "rule own: it has no signature by release (none was found beside it)")
			if _, err := n.server.client.ContentStore().Info(namespaces.WithNamespace(n.ctx(), Namespace), digest.Digest(dgst)); err == nil {
				t.Error("an image that was refused was fetched")
			}
			n.refuses(host+"/other/probe:1", dgst, "no rule is for "+host+"/other/probe")
			foreign, err := rundtest.Attach(img, stranger.Bundle(dgst, imagepolicytest.Sign), imagepolicy.BundleType)
			if err != nil {
				t.Fatal(err)
			}
			push("app/probe:foreign", foreign)
			n.refuses(ref, dgst, "signed with another key")
			large, err := rundtest.Attach(img, bytes.Repeat([]byte(" "), imagepolicy.MaxBundle+1), imagepolicy.BundleType)
			if err != nil {
				t.Fatal(err)
			}
			push("app/probe:large", large)
			n.refuses(ref, dgst, "is larger than")
			push("app/probe:sig", bundle)
			n.runs(ref, dgst)
			kept, err := n.server.images.Kept(namespaces.WithNamespace(n.ctx(), Namespace), dgst)
			if err != nil || len(kept.Bundles) == 0 {
				t.Errorf("the signature was not kept: %v", err)
			}
			// Of one that runs nothing is asked when the policy changes.
			n.policy = signedBy(s, host+"/app/*", ", attestations: [{type: "+imagepolicytest.SPDX+", by: [release]}]")
			n.refuses(ref, dgst, "rule own: it has no attestation "+imagepolicytest.SPDX)
			sbom, err := rundtest.Attach(img, s.Bundle(dgst, imagepolicytest.SPDX), imagepolicy.BundleType)
			if err != nil {
				t.Fatal(err)
			}
			push("app/probe:sbom", sbom)
			n.runs(ref, dgst)
			// What is kept will do without the registry.
			n.config.Registries = nil
			n.restart()
			n.runs(ref, dgst)
			n.policy = "format: 99\n"
			if a := n.run(ref, dgst); a.GetPhase() != rundpb.Phase_PHASE_FAILED || !strings.Contains(a.GetError(), "does not understand the cluster's image policy") {
				t.Errorf("%v", a)
			}
			n.policy = ""
			n.runs(ref, dgst)
		})
	}
}

// TestAdmissionOfLoaded: bundles in an archive.
func TestAdmissionOfLoaded(t *testing.T) {
	s := imagepolicytest.NewSigner()
	n := newNode(t)
	n.policy = signedBy(s, "redoubt.test/*", "")
	img, bundle, dgst := signed(t, s, imagepolicytest.Sign)
	const ref = "redoubt.test/loaded:1"
	load := func(attached ...v1.Image) {
		t.Helper()
		var b bytes.Buffer
		if err := rundtest.SaveOCI(&b, ref, img, attached...); err != nil {
			t.Fatal(err)
		}
		if resp, err := n.importTar(&b); err != nil || resp.GetImages()[ref] != dgst {
			t.Fatalf("%v, %v", resp, err)
		}
	}
	load()
	if a := n.run(ref, dgst); a.GetPhase() != rundpb.Phase_PHASE_FAILED {
		t.Errorf("unsigned: %v", a)
	}
	load(bundle)
	n.runs(ref, dgst)
	other, _, otherDigest := signed(t, s, imagepolicytest.Sign)
	elsewhere, err := rundtest.Attach(other, s.Bundle(otherDigest, imagepolicytest.Sign), imagepolicy.BundleType)
	if err != nil {
		t.Fatal(err)
	}
	load(elsewhere) // what it is loaded with now is all that counts
	if a := n.run(ref, dgst); a.GetPhase() != rundpb.Phase_PHASE_FAILED {
		t.Errorf("signed for another: %v", a)
	}
}

// TestOwnPolicy: a node's own policy refuses what managers let through.
func TestOwnPolicy(t *testing.T) {
	s := imagepolicytest.NewSigner()
	own := filepath.Join(base, "own.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(own, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(signedBy(s, "redoubt.test/*", ""))
	n := newNode(t, func(c *Config) { c.ImagePolicy = own })
	if a := n.run(probeRef, n.digest); a.GetPhase() != rundpb.Phase_PHASE_FAILED || !strings.Contains(a.GetError(), "rule own") {
		t.Errorf("%v", a)
	}
	n.policy = "format: 1\nrules:\n  - {name: all, images: ['**'], unsigned: true}\n"
	if a := n.run(probeRef, n.digest); a.GetPhase() != rundpb.Phase_PHASE_FAILED || !strings.Contains(a.GetError(), "rule own") {
		t.Errorf("managers' policy counts for more: %v", a)
	}
	for text, want := range map[string]string{"format: 1\n": "no rules", "": "is empty"} {
		write(text)
		if _, err := newAdmission(own); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := os.Chmod(own, 0o622); err != nil {
		t.Fatal(err)
	}
	if _, err := newAdmission(own); err == nil || !strings.Contains(err.Error(), "may be written by others") {
		t.Error(err)
	}
}

// TestAdmittedUntilItStarts: what was made under one policy is asked about again
// before it starts under another.
func TestAdmittedUntilItStarts(t *testing.T) {
	n := newNode(t)
	d := n.desired("env")
	d.Phase = rundpb.Phase_PHASE_CREATED
	n.apply(d)
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_CREATED)
	n.policy = "format: 1\nrules:\n  - {name: elsewhere, images: [r.example.com/*], unsigned: true}\n"
	d.Phase = rundpb.Phase_PHASE_RUNNING
	n.apply(d)
	if a := n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_FAILED); !a.GetRejected() || !strings.Contains(a.GetError(), "no rule is for redoubt.test/") {
		t.Errorf("%v", a)
	}
}

// TestNameIsNoProof: where a rule asks for no signature, content that is here under the
// name, or under its digest, has not been in the registry for that.
func TestNameIsNoProof(t *testing.T) {
	host, ca, push := testRegistry(t)
	n := newNode(t, func(c *Config) { c.Registries = map[string]image.Registry{host: {CAFile: ca}} })
	n.policy = "format: 1\nrules:\n  - {name: own, images: [" + host + "/app/*], unsigned: true}\n  - {name: other, images: [" + host + "/other/*], unsigned: true}\n"
	img, _, dgst := signed(t, imagepolicytest.NewSigner(), imagepolicytest.Sign)
	ref, other := host+"/app/probe:1", host+"/other/probe:1"
	const want = "rule own: nothing but its name says where it is from"
	var archive bytes.Buffer
	if err := rundtest.SaveOCI(&archive, ref, img); err != nil {
		t.Fatal(err)
	}
	if _, err := n.importTar(&archive); err != nil {
		t.Fatal(err)
	}
	n.refuses(ref, dgst, want) // loaded under that name
	push("other/probe:1", img)
	n.runs(other, dgst)
	n.refuses(ref, dgst, want) // from another repository
	push("app/probe:1", img)
	n.runs(ref, dgst)
	// What the registry said is known without it.
	n.config.Registries = nil
	n.restart()
	n.runs(ref, dgst)
	// A rule for every image says nothing of registries.
	n.policy = "format: 1\nrules:\n  - {name: all, images: ['**'], unsigned: true}\n"
	n.runs(probeRef, n.digest)
}
