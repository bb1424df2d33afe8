//go:build interop

package external

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/smallstep/certificates/cas/apiv1"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
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

func stepBinary(t *testing.T) string {
	t.Helper()
	binary := os.Getenv("REDOUBT_STEP_CA")
	if binary == "" {
		t.Fatal("REDOUBT_STEP_CA names no step-ca: make test-interop builds one")
	}
	return binary
}

// TestInteropNames: a real step-ca certifies nodes of the cluster for whoever has
// the key of its orders, and nobody else.
func TestInteropNames(t *testing.T) {
	key, cluster := newKey(t), ident.New()
	s := startStepCA(t, stepBinary(t), cluster, must[[]byte](t)(x509.MarshalPKIXPublicKey(key.Public())))
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

// TestInteropRenewal: whoever has a worker's key has a real step-ca prolong nothing and
// certify no other key; what a leaf without step-ca's extension gets shows that it is
// needed.
func TestInteropRenewal(t *testing.T) {
	orderKey, cluster, key := newKey(t), ident.New(), newKey(t)
	s := startStepCA(t, stepBinary(t), cluster, must[[]byte](t)(x509.MarshalPKIXPublicKey(orderKey.Public())))
	o := &orders{key: orderKey, url: s.url}
	csr := must[*x509.CertificateRequest](t)(x509.ParseCertificateRequest(must[[]byte](t)(profile.NewCSR(key, nil))))
	id := profile.Identity{ClusterID: cluster, NodeID: ident.New(), Role: profilepb.Role_ROLE_WORKER}
	var client Client
	answer, err := client.Authorized(t.Context(), Order{URL: s.url, Root: s.root, Token: o.token(t, profile.NodeURI(cluster, id.NodeID).String()), NotAfter: time.Now().Add(time.Hour)}).
		CreateCertificate(&apiv1.CreateCertificateRequest{CSR: csr})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := profile.NodeFromCert(answer.Certificate); err != nil {
		t.Error(err)
	}
	without := profile.LeafTemplate(id, time.Now(), time.Hour)
	without.SerialNumber = big.NewInt(77)
	for name, leaf := range map[string]struct {
		der  []byte
		want int
	}{
		"of the provisioner":    {answer.Certificate.Raw, http.StatusUnauthorized},
		"without its extension": {must[[]byte](t)(x509.CreateCertificate(rand.Reader, without, s.signer, key.Public(), s.key)), http.StatusCreated},
	} {
		pool := x509.NewCertPool()
		pool.AddCert(s.root)
		at := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.der, s.signer.Raw}, PrivateKey: key}}}}}
		other := must[[]byte](t)(profile.NewCSR(newKey(t), nil))
		rekey := must[[]byte](t)(json.Marshal(map[string]string{"csr": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: other}))}))
		for path, body := range map[string][]byte{"/1.0/renew": nil, "/1.0/rekey": rekey} {
			resp, err := at.Post(s.url+path, "application/json", bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			said, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != leaf.want {
				t.Errorf("%s of a leaf %s: %s %s", path, name, resp.Status, said)
			}
		}
		at.CloseIdleConnections()
	}
}
