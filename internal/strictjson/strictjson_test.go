package strictjson

import (
	"encoding/json"
	"strings"
	"testing"
)

type sheet struct {
	Name string            `json:"name"`
	Tags []string          `json:"tags"`
	More map[string]*sheet `json:"more"`
}

func TestDecode(t *testing.T) {
	var s sheet
	if err := Decode([]byte(` {"name": "name", "tags": ["name", "name"], "more": {"name": {"name": "name"}, "a": {"name": "b"}}} `), &s); err != nil || s.More["a"].Name != "b" || len(s.Tags) != 2 {
		t.Fatalf("%+v, %v", s, err)
	}
	for text, want := range map[string]string{
		``:                             "EOF",
		`{"name": "a"`:                 "unexpected EOF",
		`{"colour": "red"}`:            `unknown field "colour"`,
		`{"name": "a", "name": "a"}`:   `key "name" is there twice`,
		`{"tags": [], "tags": null}`:   `key "tags" is there twice`,
		`{"more": {"a": {}, "a": {}}}`: `key "a" is there twice`,
		`{"more": {"a": {"tags": ["x"], "name": "", "tags": ["y"]}}}`: `key "tags" is there twice`,
		`{"name": "a", "\u006eame": "b"}`:                             `key "name" is there twice`,
		`{} {}`:                                                       "something follows its end",
		`{}]`:                                                         "something follows its end",
		`[]`:                                                          "cannot unmarshal",
	} {
		if err := Decode([]byte(text), new(sheet)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// FuzzDecode: what is decoded is JSON, and says the same when it is written and read
// again.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"name": "a", "more": {"b": {"tags": ["c"]}}}`))
	f.Add([]byte(`{"name": "a", "name": "b"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s, again sheet
		if Decode(data, &s) != nil {
			return
		}
		if !json.Valid(data) {
			t.Fatalf("%q is no JSON", data)
		}
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := Decode(b, &again); err != nil {
			t.Fatalf("%q became %s: %v", data, b, err)
		}
	})
}
