//go:build interop

package external

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/smallstep/certificates/cas/apiv1"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile"
)

// orders signs tokens as keyd does, with names that keyd would not.
type orders struct {
	key *ecdsa.PrivateKey
	url string
	n   int
}

func (o *orders) token(t *testing.T, sans ...string) string {
	t.Helper()
	o.n++
	spki := must[[]byte](t)(x509.MarshalPKIXPublicKey(o.key.Public()))
	part := func(v any) string { return base64.RawURLEncoding.EncodeToString(must[[]byte](t)(json.Marshal(v))) }
	now := time.Now().Unix()
	said := part(map[string]any{"alg": "ES256", "typ": "JWT", "kid": profile.BundleKeyID(spki)}) + "." + part(map[string]any{"iss": "redoubt", "sub": sans[0],
		"aud": []string{o.url + "/1.0/sign"}, "nbf": now, "iat": now, "exp": now + 60, "jti": string(rune('a' + o.n)), "sans": sans})
	sum := sha256.Sum256([]byte(said))
	r, s, err := ecdsa.Sign(rand.Reader, o.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return said + "." + base64.RawURLEncoding.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

// TestInteropNames: a real step-ca certifies nodes of the cluster for whoever has
// the key of its orders, and nobody else.
func TestInteropNames(t *testing.T) {
	binary := os.Getenv("REDOUBT_STEP_CA")
	if binary == "" {
		t.Fatal("REDOUBT_STEP_CA names no step-ca: make test-interop builds one")
	}
	key, cluster := newKey(t), ident.New()
	s := startStepCA(t, binary, cluster, must[[]byte](t)(x509.MarshalPKIXPublicKey(key.Public())))
	o := &orders{key: key, url: s.url}
	csr := must[*x509.CertificateRequest](t)(x509.ParseCertificateRequest(must[[]byte](t)(profile.NewCSR(newKey(t), nil))))
	node := profile.NodeURI(cluster, ident.New()).String()
	var client Client
	for _, sans := range [][]string{{node}, {"intranet.corp"}, {node, "intranet.corp"}, {profile.NodeURI(ident.New(), ident.New()).String()}, {node + "/x"}} {
		_, err := client.Authorized(t.Context(), Order{URL: s.url, Root: s.root, Token: o.token(t, sans...), NotAfter: time.Now().Add(time.Hour)}).
			CreateCertificate(&apiv1.CreateCertificateRequest{CSR: csr})
		if good := len(sans) == 1 && sans[0] == node; (err == nil) != good {
			t.Errorf("%s: %v", strings.Join(sans, ", "), err)
		} else {
			t.Logf("%s: %v", strings.Join(sans, ", "), err)
		}
	}
}
