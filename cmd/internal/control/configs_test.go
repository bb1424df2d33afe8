package control_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	"github.com/redoubt-cluster/redoubt/secrets/spec"
)

func (w *world) config(name string, data []byte) (string, error) {
	r, err := w.api.CreateConfig(w.t.Context(), &controlpb.CreateConfigRequest{
		Spec: &secretspb.ConfigSpec{Name: name, Labels: map[string]string{"of": "test"}, Data: data}})
	return r.GetId(), err
}

func TestConfigs(t *testing.T) {
	w := newWorld(t)
	data := bytes.Repeat([]byte{1, 0, 0xff}, spec.MaxConfigBytes/3)
	id, err := w.config("site", data)
	if err != nil {
		t.Fatal(err)
	}
	get := func(refs ...string) (*controlpb.GetConfigsResponse, error) {
		return w.api.GetConfigs(t.Context(), &controlpb.GetConfigsRequest{Configs: refs})
	}
	for _, ref := range []string{id, "site", id[:8]} {
		r, err := get(ref)
		if err != nil || len(r.GetConfigs()) != 1 {
			t.Fatalf("%s: %v, %v", ref, r, err)
		}
		if c := r.GetConfigs()[0]; c.GetId() != id || c.GetSpec().GetName() != "site" || !bytes.Equal(c.GetSpec().GetData(), data) {
			t.Errorf("%s is another config", ref)
		}
	}
	remove := func(ref string, version uint64) error {
		_, err := w.api.RemoveConfig(t.Context(), &controlpb.RemoveConfigRequest{Config: ref, Version: version})
		return err
	}

	_, err = w.config("site", []byte("other"))
	wantReason(t, err, apierr.ReasonExists, `"site" exists already`)
	_, err = w.config("Site", data)
	wantReason(t, err, apierr.ReasonInvalid, "lowercase")
	_, err = w.config("large", make([]byte, spec.MaxConfigBytes+1))
	wantReason(t, err, apierr.ReasonInvalid, "at most")
	_, err = w.api.CreateConfig(t.Context(), &controlpb.CreateConfigRequest{})
	wantReason(t, err, apierr.ReasonInvalid, "no config")
	_, err = get()
	wantReason(t, err, apierr.ReasonInvalid, "name 1 to")
	_, err = get(strings.Split(strings.Repeat("site ", 40), " ")...)
	wantReason(t, err, apierr.ReasonInvalid, "name 1 to")
	for _, ref := range []string{"nosuch", "", "sit", strings.Repeat("a", 10_000)} {
		_, err = get("site", ref)
		wantReason(t, err, apierr.ReasonNotFound, "redoubt config ls")
		wantReason(t, remove(ref, 0), apierr.ReasonNotFound, "redoubt config ls")
	}

	// Whoever looked at one config does not remove another one of that name.
	r, err := get("site")
	if err != nil {
		t.Fatal(err)
	}
	version := r.GetConfigs()[0].GetMeta().GetVersion()
	if err := remove("site", version); err != nil {
		t.Fatal(err)
	}
	if _, err := w.config("site", []byte("new")); err != nil {
		t.Fatal(err)
	}
	wantReason(t, remove("site", version), apierr.ReasonConflict, "somebody else")
	if err := remove("site", 0); err != nil {
		t.Error(err)
	}
	wantReason(t, remove(id, 0), apierr.ReasonNotFound, "no config")
}

func TestConfigsAreListedWithoutTheirData(t *testing.T) {
	w := newWorld(t)
	const n = 1100
	for i := range n {
		if _, err := w.config(fmt.Sprintf("c%04d", n-i), []byte(ident.New())); err != nil {
			t.Fatal(err)
		}
	}
	got := &sink[controlpb.StreamConfigsResponse]{ctx: t.Context()}
	if err := w.api.StreamConfigs(&controlpb.StreamConfigsRequest{}, got); err != nil {
		t.Fatal(err)
	}
	if len(got.pages) != 3 {
		t.Errorf("%d pages", len(got.pages))
	}
	i := 0
	for _, p := range got.pages {
		for _, v := range p.GetConfigs() {
			if i++; v.GetName() != fmt.Sprintf("c%04d", i) || v.GetSize() != ident.Len || v.GetLabels()["of"] != "test" || v.GetCreatedAt() == 0 || v.GetVersion() == 0 {
				t.Fatalf("config %d is %v", i, v)
			}
		}
	}
	if i != n {
		t.Errorf("%d configs of %d", i, n)
	}
}

// What every manager must hold in memory is bounded, also where somebody's loop
// makes one config after the other.
func TestConfigsAreBoundedInAll(t *testing.T) {
	w := newWorld(t)
	data := make([]byte, spec.MaxConfigBytes)
	made := 0
	for ; made < 200; made++ {
		if _, err := w.config(fmt.Sprintf("c%d", made), data); err != nil {
			wantReason(t, err, apierr.ReasonState, "128 MiB in all")
			break
		}
	}
	if made != 131 {
		t.Errorf("%d configs were made, want 131 of 1000 KiB in 128 MiB", made)
	}
	if _, err := w.api.RemoveConfig(t.Context(), &controlpb.RemoveConfigRequest{Config: "c0"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.config("again", data); err != nil {
		t.Errorf("after one was removed: %v", err)
	}
}
