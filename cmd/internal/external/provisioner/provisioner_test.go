package provisioner

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"regexp"
	"testing"
	texttemplate "text/template"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile"
)

// printed is what step-ca reads of it.
type printed struct {
	Type, Name string
	Key        struct{ Kty, Crv, X, Y, D string }
	Claims     map[string]any
	Options    struct{ X509 struct{ Template string } }
}

func printFor(t *testing.T, clusterID string) printed {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	out, err := JSON("redoubt", clusterID, spki)
	var p printed
	if err != nil || json.Unmarshal(out, &p) != nil {
		t.Fatalf("%s: %v", out, err)
	}
	if _, err := JSON("redoubt", "", spki); err == nil {
		t.Error("it is for no cluster")
	}
	return p
}

// TestJSON: what step-ca is given is the public key of orders.
func TestJSON(t *testing.T) {
	p := printFor(t, ident.New())
	if p.Type != "JWK" || p.Name != "redoubt" || p.Key.Kty != "EC" || len(p.Key.X) != 43 || len(p.Key.Y) != 43 || p.Key.D != "" ||
		p.Claims["disableRenewal"] != true || p.Claims["disableSmallstepExtensions"] != false {
		t.Errorf("%+v", p)
	}
	if _, err := JSON("redoubt", ident.New(), []byte("rubbish")); err == nil {
		t.Error("rubbish is a key of orders")
	}
}

// TestTemplate: whoever signs orders gets certificates of one node of the cluster,
// and of nobody else that clients of the step-ca believe.
func TestTemplate(t *testing.T) {
	cluster := ident.New()
	shape, err := texttemplate.New("").Funcs(texttemplate.FuncMap{ // as step-ca has them
		"fail":       func(why string) (string, error) { return "", errors.New(why) },
		"regexMatch": func(re, s string) bool { return regexp.MustCompile(re).MatchString(s) },
		"toJson":     func(v any) string { b, _ := json.Marshal(v); return string(b) },
	}).Parse(printFor(t, cluster).Options.X509.Template)
	if err != nil {
		t.Fatal(err)
	}
	type san struct{ Type, Value string }
	node := profile.NodeURI(cluster, ident.New()).String()
	for name, c := range map[string]struct {
		sans []san
		good bool
	}{
		"a node":                    {[]san{{"uri", node}}, true},
		"a host":                    {[]san{{"dns", "intranet.corp"}}, false},
		"a node and a host":         {[]san{{"uri", node}, {"dns", "intranet.corp"}}, false},
		"a node of another cluster": {[]san{{"uri", profile.NodeURI(ident.New(), ident.New()).String()}}, false},
		"a node's URI as a host":    {[]san{{"dns", node}}, false},
		"more than a node":          {[]san{{"uri", node + "/x"}}, false},
		"a line more":               {[]san{{"uri", node + "\n"}}, false},
		"nobody":                    {nil, false},
	} {
		var out bytes.Buffer
		err := shape.Execute(&out, map[string]any{"SANs": c.sans, "Token": map[string]any{"tpm": "BAA="}})
		if (err == nil) != c.good || c.good && !json.Valid(out.Bytes()) {
			t.Errorf("%s: %v: %s", name, err, out.Bytes())
		}
	}
}
