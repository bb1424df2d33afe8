package report

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/threatmodel/control"
	"github.com/redoubt-cluster/redoubt/threatmodel/profile"
)

// TestComponents: the schema of NIST takes what is written of every profile, and no
// more is claimed than controls judge.
func TestComponents(t *testing.T) {
	var ids []string
	for _, c := range control.All() {
		ids = append(ids, c.ID)
	}
	all := []*profile.Profile{small(), {ID: "none", Title: "None"}}
	for _, name := range profile.Names() {
		p, err := profile.Load(name, ids)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	for _, p := range all {
		var b bytes.Buffer
		if err := Components(&b, p, control.All(), ended); err != nil {
			t.Fatal(err)
		}
		if err := valid(t, oscalSchema, b.Bytes()); err != nil {
			t.Errorf("%s: %v\n%s", p.ID, err, &b)
		}
		var doc struct {
			Definition struct {
				Components []struct {
					Implementations []struct {
						Requirements []struct {
							ID string `json:"control-id"`
						} `json:"implemented-requirements"`
					} `json:"control-implementations"`
				}
			} `json:"component-definition"`
		}
		if err := json.Unmarshal(b.Bytes(), &doc); err != nil {
			t.Fatal(err)
		}
		var got, want []string
		for _, i := range doc.Definition.Components[0].Implementations {
			for _, q := range i.Requirements {
				got = append(got, q.ID)
			}
		}
		for _, q := range p.Requirements {
			if len(q.Controls) > 0 {
				want = append(want, token(q.ID))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s claims %v, want %v", p.ID, got, want)
		}
		if strings.Contains(b.String(), "<script") {
			t.Errorf("%s: %s", p.ID, &b)
		}
	}
}
