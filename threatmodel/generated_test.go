package threatmodel

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// TestThreats: the file itself is in order, as on a day on which no review is
// due: that a day is past is for `make threatmodel` to say, not for this tree.
func TestThreats(t *testing.T) {
	m, tests := real(t)
	for _, f := range append(m.Check(today, Controls()), m.CheckTests(tests)...) {
		t.Error(f)
	}
	if len(m.Threats) < 45 {
		t.Errorf("%d threats", len(m.Threats))
	}
}

// TestGenerated: what is committed is what is made.
func TestGenerated(t *testing.T) {
	m, tests := real(t)
	otm, err := m.OTM()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{"../docs/threat-model.md": m.Markdown(tests), "../docs/threat-model.otm.json": otm} {
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what is made of threats.yaml (%v): make generate-threatmodel, and commit it", name, err)
		}
	}
	if err := valid(t, otm); err != nil {
		t.Error(err)
	}
}

// TestSchemaJudges: the schema refuses what Open Threat Model does not have, so
// that its silence says something.
func TestSchemaJudges(t *testing.T) {
	out, err := parse(t, small()).OTM()
	if err != nil {
		t.Fatal(err)
	}
	if err := valid(t, out); err != nil {
		t.Fatal(err)
	}
	for old, new := range map[string]string{`"otmVersion"`: `"version"`, `"trustRating": 90`: `"trustRating": "much"`, `"trustZone": "keys"`: `"zone": "keys"`} {
		if bad := strings.Replace(string(out), old, new, 1); bad == string(out) || valid(t, []byte(bad)) == nil {
			t.Errorf("%s in place of %s is valid", new, old)
		}
	}
}

func real(t testing.TB) (*Model, Tests) {
	t.Helper()
	data, err := os.ReadFile("threats.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	tests, err := FindTests("..")
	if err != nil {
		t.Fatal(err)
	}
	return m, tests
}

var schema = sync.OnceValues(func() (*jsonschema.Schema, error) {
	return jsonschema.NewCompiler().Compile("schema/otm_schema-0.2.0.json")
})

// valid judges an Open Threat Model by its schema.
func valid(t testing.TB, otm []byte) error {
	t.Helper()
	s, err := schema()
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(otm))
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(otm) {
		t.Fatal("no JSON")
	}
	return s.Validate(v)
}
