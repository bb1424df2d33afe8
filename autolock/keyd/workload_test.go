package keyd

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// asking is a node that asks for workloads.
type asking struct {
	key   *ecdsa.PrivateKey
	chain *profilepb.CertificateChain
}

func (a *asking) request(t testing.TB, b *profilepb.WorkloadBatch) *keydpb.SignWorkloadsRequest {
	t.Helper()
	batch, err := proto.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(profile.BatchInput(batch))
	proof, err := a.key.Sign(rand.Reader, digest[:], nil)
	if err != nil {
		t.Fatal(err)
	}
	return &keydpb.SignWorkloadsRequest{Node: a.chain, Batch: batch, Proof: proof}
}

func batchOf(items ...*profilepb.WorkloadItem) *profilepb.WorkloadBatch {
	return &profilepb.WorkloadBatch{At: time.Now().Unix(), Items: items}
}

func certItem(cluster string, csr []byte) *profilepb.WorkloadItem {
	return &profilepb.WorkloadItem{TaskId: ident.New(), Identity: profile.ServiceURI(cluster, "", "web").String(), Life: 3600,
		Document: &profilepb.WorkloadItem_Csr{Csr: csr}}
}

func tokenItem(cluster string, audience ...string) *profilepb.WorkloadItem {
	return &profilepb.WorkloadItem{TaskId: ident.New(), Identity: profile.ServiceURI(cluster, "shop", "db").String(), Life: 300,
		Document: &profilepb.WorkloadItem_Audience{Audience: &profilepb.WorkloadAudience{Names: audience}}}
}

func TestSignWorkloads(t *testing.T) {
	c := newCluster(t)
	node := &asking{key: newKey(t)}
	joined, err := c.SignJoin(t.Context(), c.mint(t, worker, nil).join(t, newCSR(t, node.key, nil), nil))
	if err != nil {
		t.Fatal(err)
	}
	node.chain = joined.Leaf
	cluster := c.init.ClusterId
	key := newKey(t)
	req := node.request(t, batchOf(certItem(cluster, newCSR(t, key, nil)), tokenItem(cluster, "db", "cache"), certItem(cluster, newCSR(t, key, nil)), certItem(cluster, []byte("x"))))
	req.Refused = []uint32{2}
	resp, err := c.SignWorkloads(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(resp.Documents[0].GetCertificate())
	if err != nil {
		t.Fatal(err)
	}
	if id, err := profile.CheckSVID(cert); err != nil || id != "spiffe://"+cluster+"/svc/default/web" || !key.PublicKey.Equal(cert.PublicKey) {
		t.Errorf("the certificate is of %q, %v", id, err)
	}
	ca, err := x509.ParseCertificate(resp.Issuer.Certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(c.rootDER())
	if err != nil {
		t.Fatal(err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	between.AddCert(ca)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		t.Error(err)
	}
	if _, err := profile.NodeFromCert(cert); err == nil {
		t.Error("a workload's certificate passes for a node's")
	}
	if d := resp.Documents[2]; d.Document != nil {
		t.Errorf("what redoubtd refused was issued: %v", d)
	}
	if resp.Documents[3].GetError() == "" {
		t.Error("a malformed request was answered")
	}
	bundle, err := profile.OpenBundle(ca, resp.Bundle)
	if err != nil || bundle.ClusterId != cluster {
		t.Fatalf("%v, %v", bundle, err)
	}
	checkToken(t, bundle, resp.Documents[1].GetToken(), `["db","cache"]`, "spiffe://"+cluster+"/svc/shop/db")
	resp.Bundle.Bundle[3] ^= 1
	if _, err := profile.OpenBundle(ca, resp.Bundle); err == nil {
		t.Error("a changed bundle was believed")
	}
}

func checkToken(t *testing.T, bundle *profilepb.WorkloadBundle, token, aud, sub string) {
	t.Helper()
	part := strings.Split(token, ".")
	if len(part) != 3 {
		t.Fatalf("token %q", token)
	}
	var raw [3][]byte
	for i := range part {
		var err error
		if raw[i], err = base64.RawURLEncoding.DecodeString(part[i]); err != nil {
			t.Fatal(err)
		}
	}
	var head struct{ Alg, Kid, Typ string }
	var claims struct {
		Aud      json.RawMessage
		Sub      string
		Exp, Iat int64
	}
	if err := json.Unmarshal(raw[0], &head); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw[1], &claims); err != nil {
		t.Fatal(err)
	}
	public, err := profile.ParseBundleKey(bundle.Keys[0])
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(part[0] + "." + part[1]))
	r, s := new(big.Int).SetBytes(raw[2][:32]), new(big.Int).SetBytes(raw[2][32:])
	if head.Alg != "ES256" || head.Kid != bundle.Keys[0].Id || string(claims.Aud) != aud || claims.Sub != sub || claims.Exp-claims.Iat != 300 || !ecdsa.Verify(public, digest[:], r, s) {
		t.Errorf("header %+v, claims %+v", head, claims)
	}
}

// A redoubtd that lies gets nothing: not for a node that did not ask, nor for
// another cluster, nor for longer than is allowed.
func TestSignWorkloadsRefusesLies(t *testing.T) {
	c, foreign := newCluster(t), newCluster(t)
	id := c.init.ClusterId
	join := func(c *cluster) *asking {
		a := &asking{key: newKey(t)}
		joined, err := c.SignJoin(t.Context(), c.mint(t, worker, nil).join(t, newCSR(t, a.key, nil), nil))
		if err != nil {
			t.Fatal(err)
		}
		a.chain = joined.Leaf
		return a
	}
	node, other, stranger := join(c), join(c), join(foreign)
	leafKey, bootKey := newKey(t), newKey(t)
	own, err := c.SignOwn(t.Context(), &keydpb.SignOwnRequest{Csr: newCSR(t, leafKey, c.keydKey), BootCsr: newCSR(t, bootKey, nil)})
	if err != nil {
		t.Fatal(err)
	}
	boot := own.Boot
	good := func() *profilepb.WorkloadBatch { return batchOf(certItem(id, newCSR(t, newKey(t), nil))) }
	if _, err := c.SignWorkloads(t.Context(), node.request(t, good())); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func() *keydpb.SignWorkloadsRequest{
		"another node's proof": func() *keydpb.SignWorkloadsRequest {
			r := other.request(t, good())
			r.Node = node.chain
			return r
		},
		"a changed batch": func() *keydpb.SignWorkloadsRequest {
			r := node.request(t, good())
			r.Batch[len(r.Batch)-1] ^= 1
			return r
		},
		"a node of another cluster": func() *keydpb.SignWorkloadsRequest { return stranger.request(t, good()) },
		"a boot leaf": func() *keydpb.SignWorkloadsRequest {
			a := &asking{key: bootKey, chain: boot}
			return a.request(t, good())
		},
		"no leaf": func() *keydpb.SignWorkloadsRequest {
			r := node.request(t, good())
			r.Node = nil
			return r
		},
		"an old batch": func() *keydpb.SignWorkloadsRequest {
			b := good()
			b.At -= 3600
			return node.request(t, b)
		},
		"a batch of the future": func() *keydpb.SignWorkloadsRequest {
			b := good()
			b.At += 3600
			return node.request(t, b)
		},
		"no item": func() *keydpb.SignWorkloadsRequest { return node.request(t, batchOf()) },
		"a year": func() *keydpb.SignWorkloadsRequest {
			b := good()
			b.Items[0].Life = 86400 * 365
			return node.request(t, b)
		},
		"a node's": func() *keydpb.SignWorkloadsRequest {
			b := good()
			b.Items[0].Identity = profile.NodeURI(id, ident.New()).String()
			return node.request(t, b)
		},
		"a token of two hours": func() *keydpb.SignWorkloadsRequest {
			b := batchOf(tokenItem(id, "x"))
			b.Items[0].Life = 7200
			return node.request(t, b)
		},
		"a token for nobody": func() *keydpb.SignWorkloadsRequest { return node.request(t, batchOf(tokenItem(id))) },
		"too many": func() *keydpb.SignWorkloadsRequest {
			b := batchOf()
			for range profile.MaxBatchItems + 1 {
				b.Items = append(b.Items, tokenItem(id, "x"))
			}
			return node.request(t, b)
		},
	} {
		if resp, err := c.SignWorkloads(t.Context(), change()); err == nil {
			t.Errorf("%s: answered %v", name, resp)
		}
	}
	b := good()
	b.Items[0].Identity = profile.ServiceURI(foreign.init.ClusterId, "", "web").String()
	if resp, err := c.SignWorkloads(t.Context(), node.request(t, b)); err != nil || resp.Documents[0].GetError() == "" {
		t.Errorf("an identity of another cluster: %v, %v", resp, err)
	}
}

// BenchmarkWorkload compares what keyd does for a certificate with what x509 takes
// for it: `raw` is one core's bare CreateCertificate. cpu-ns/op is processor time,
// which a busy machine does not change as it does the clock's.
func BenchmarkWorkload(b *testing.B) {
	k, err := newKeyset(time.Now())
	if err != nil {
		b.Fatal(err)
	}
	defer k.destroy()
	ca, err := ecdsa.ParseRawPrivateKey(k.workload.PublicKey.(*ecdsa.PublicKey).Curve, k.workloadKey)
	if err != nil {
		b.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(ca.Curve, rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	csr, err := profile.NewCSR(key, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("raw", func(b *testing.B) {
		defer processorTime(b)()
		t := profile.SVIDTemplate(profile.ServiceURI(k.clusterID, "", "web"), time.Now(), time.Hour)
		t.SerialNumber = newSerial()
		for b.Loop() {
			if _, err := x509.CreateCertificate(rand.Reader, t, k.workload, &key.PublicKey, ca); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("keyd", func(b *testing.B) {
		defer processorTime(b)()
		batch := batchOf()
		for range 64 {
			batch.Items = append(batch.Items, certItem(k.clusterID, csr))
		}
		for n := 0; n < b.N; n += len(batch.Items) {
			if _, err := k.issueWorkloads(batch, nil, time.Now()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("token", func(b *testing.B) {
		defer processorTime(b)()
		batch := batchOf()
		for range 64 {
			batch.Items = append(batch.Items, tokenItem(k.clusterID, "db"))
		}
		for n := 0; n < b.N; n += len(batch.Items) {
			if _, err := k.issueWorkloads(batch, nil, time.Now()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// processorTime reports what was used between the two calls, for each of b.N.
func processorTime(b *testing.B) func() {
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	began := used()
	return func() { b.ReportMetric(float64(used()-began)/float64(b.N), "cpu-ns/op") }
}
