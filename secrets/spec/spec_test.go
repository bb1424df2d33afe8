package spec_test

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	"github.com/redoubt-cluster/redoubt/secrets/spec"
)

func TestCheckConfig(t *testing.T) {
	good := func() *secretspb.ConfigSpec {
		return &secretspb.ConfigSpec{Name: "site", Labels: map[string]string{"a": "b"}, Data: bytes.Repeat([]byte{0}, spec.MaxConfigBytes)}
	}
	if err := spec.CheckConfig(good()); err != nil {
		t.Error(err)
	}
	if err := spec.CheckConfig(nil); err == nil {
		t.Error("nothing is accepted")
	}
	for want, spoil := range map[string]func(*secretspb.ConfigSpec){
		"config: the name is empty":           func(s *secretspb.ConfigSpec) { s.Name = "" },
		"only lowercase":                      func(s *secretspb.ConfigSpec) { s.Name = "Site" },
		"form of an id":                       func(s *secretspb.ConfigSpec) { s.Name = ident.New() },
		"config label \"a b\"":                func(s *secretspb.ConfigSpec) { s.Labels["a b"] = "" },
		"the config is empty":                 func(s *secretspb.ConfigSpec) { s.Data = nil },
		"1024001 bytes long: at most 1024000": func(s *secretspb.ConfigSpec) { s.Data = append(s.Data, 0) },
		"config site: line":                   func(s *secretspb.ConfigSpec) { s.Template, s.Data = true, []byte("{{") },
		"not part of the language": func(s *secretspb.ConfigSpec) {
			s.Template, s.Data = true, []byte("{{range 1000000000}}a{{end}}")
		},
		"and its labels are": func(s *secretspb.ConfigSpec) {
			for _, k := range strings.Split("abcdefgh", "") {
				s.Labels[k] = strings.Repeat("v", ident.MaxLabelValue)
			}
		},
		"ConfigSpec has fields that this version does not know": func(s *secretspb.ConfigSpec) {
			s.ProtoReflect().SetUnknown([]byte{0xa0, 0x06, 0x01})
		},
	} {
		s := good()
		spoil(s)
		if err := spec.CheckConfig(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// What is accepted fits into one transaction, whatever else is stored with it.
func TestBoundsFitTheStore(t *testing.T) {
	c := &secretspb.Config{Id: ident.New(), Spec: &secretspb.ConfigSpec{Name: "a", Data: make([]byte, spec.MaxSpecBytes)}}
	if n := proto.Size(c); n > 1<<20-2048 {
		t.Errorf("a config may have %d bytes", n)
	}
}
