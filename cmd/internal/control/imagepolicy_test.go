package control_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy"
	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy/imagepolicytest"
)

// Evidence is what lies beside images.
func (w *world) Evidence(_ context.Context, _, digest string, kept bool) (imagepolicy.Evidence, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if kept {
		return imagepolicy.Evidence{}, nil
	}
	return imagepolicy.Evidence{Bundles: w.evidence[digest]}, nil
}

func (w *world) lay(digest string, bundles ...[]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.evidence == nil {
		w.evidence = map[string][][]byte{}
	}
	w.evidence[digest] = bundles
}

func (w *world) setPolicy(text string) *controlpb.SetImagePolicyResponse {
	w.t.Helper()
	r, err := w.api.SetImagePolicy(w.t.Context(), &controlpb.SetImagePolicyRequest{Document: []byte(text)})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// TestImagePolicy: what is asked when a service is created, what an update of
// something else may still do, and that a refusal names the rule.
func TestImagePolicy(t *testing.T) {
	s, stranger := imagepolicytest.NewSigner(), imagepolicytest.NewSigner()
	signed := fmt.Sprintf("format: 1\nsigners:\n  - name: release\n    keys:\n      - |\n        %s\nrules:\n  - {name: hub, images: [registry.example/*], signatures: {by: [release]}}\n",
		imagepolicytest.Indent(s.PEM(), 8))
	w := newWorld(t)
	w.registry[ref] = digestA
	before := w.create(w.spec("before"))
	if r := w.setPolicy(signed); len(r.GetDigest()) != 64 || len(r.GetWarnings()) != 0 {
		t.Fatalf("%v", r)
	}
	create := func(name string) (*controlpb.CreateServiceResponse, error) {
		return w.api.CreateService(t.Context(), &controlpb.CreateServiceRequest{Spec: w.spec(name)})
	}
	_, err := create("unsigned")
	wantReason(t, err, apierr.ReasonState, "rule hub: it has no signature by release (none was found beside it)")
	w.lay(digestA, stranger.Bundle(digestA, imagepolicytest.Sign), s.Bundle(digestB, imagepolicytest.Sign))
	_, err = create("strangers")
	wantReason(t, err, apierr.ReasonState, "rule hub: it has no signature by release")
	check := func(document string) *controlpb.CheckImageResponse {
		t.Helper()
		r, err := w.api.CheckImage(t.Context(), &controlpb.CheckImageRequest{Image: ref, Document: []byte(document)})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := check(""); r.GetAdmitted() || r.GetRule() != "hub" || r.GetBundles() != 2 || r.GetDigest() != digestA {
		t.Errorf("%v", r)
	}
	if r := check("format: 1\nrules:\n  - {name: all, images: ['**'], unsigned: true}\n"); !r.GetAdmitted() || r.GetRule() != "all" {
		t.Errorf("%v", r)
	}
	if r := check("format: 1\nrules:\n  - {name: other, images: [r.example.com/**], unsigned: true}\n"); r.GetAdmitted() || r.GetRule() != "" || !strings.Contains(r.GetWhy(), "no rule is for") {
		t.Errorf("%v", r)
	}
	// The nodes alone can see what only the registry's secret shows.
	private := w.spec("private")
	if _, err := w.secret("hub", kindRegistry); err != nil {
		t.Fatal(err)
	}
	private.Task.Container.RegistryAuth = "hub"
	r, err := w.api.CreateService(t.Context(), &controlpb.CreateServiceRequest{Spec: private})
	if err != nil || !strings.Contains(strings.Join(r.GetWarnings(), " "), "verified by the nodes alone") {
		t.Errorf("%v, %v", r, err)
	}
	// What runs may be updated, with a word.
	svc := w.service(before).GetService()
	sp := svc.GetSpec()
	sp.Labels = map[string]string{"a": "b"}
	u, err := w.api.UpdateService(t.Context(), &controlpb.UpdateServiceRequest{Service: before, Version: svc.GetMeta().GetVersion(), Spec: sp})
	if err != nil || !strings.Contains(strings.Join(u.GetWarnings(), " "), "rule hub") {
		t.Errorf("%v, %v", u, err)
	}
	w.lay(digestA, s.Bundle(digestA, imagepolicytest.Sign))
	if _, err := create("signed"); err != nil {
		t.Error(err)
	}
	// A policy without a rule for what runs says so, and none that is malformed is set.
	if r := w.setPolicy("format: 1\nrules:\n  - {name: other, images: [r.example.com/**], unsigned: true}\n"); len(r.GetWarnings()) != 3 {
		t.Errorf("%v", r)
	}
	_, err = w.api.SetImagePolicy(t.Context(), &controlpb.SetImagePolicyRequest{Document: []byte("format: 1\nrules: []\n")})
	wantReason(t, err, apierr.ReasonInvalid, "admit nothing")
	if _, err = create("late"); err == nil || !strings.Contains(err.Error(), "no rule is for") {
		t.Error(err)
	}
	if _, err := w.api.RemoveImagePolicy(t.Context(), &controlpb.RemoveImagePolicyRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := create("late"); err != nil {
		t.Error(err)
	}
	_, err = w.api.CheckImage(t.Context(), &controlpb.CheckImageRequest{Image: ref})
	wantReason(t, err, apierr.ReasonState, "there is no image policy")
}
