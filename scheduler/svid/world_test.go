package svid

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// world is a node with the managers and the rund that it has.
type world struct {
	*Holder
	t                 testing.TB
	cluster           string
	root, ca          *x509.Certificate
	rootKey, caKey    *ecdsa.PrivateKey
	tokenKey, nodeKey *ecdsa.PrivateKey
	dir               string
	hand              chan rundConn // to the rund of the test

	mu      sync.Mutex // guards the following
	away    bool       // managers do not answer
	lie     func(*schedulerpb.IssueResponse)
	denied  map[string]bool
	changed chan struct{}
	issued  int
	epoch   uint64
	reports []*schedulerpb.IdentityReport
}

type rundConn struct {
	task string
	conn *net.UnixConn
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newCA(t testing.TB, name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	if parent == nil {
		parent, parentKey = c, key
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, parentKey))
	return must[*x509.Certificate](t)(x509.ParseCertificate(der)), key
}

// newWorld starts a node. Its rund is the test: a listener for each task that is
// asked for by socket.
func newWorld(t testing.TB, life time.Duration) *world {
	w := &world{t: t, cluster: ident.New(), denied: map[string]bool{}, changed: make(chan struct{}), hand: make(chan rundConn)}
	w.root, w.rootKey = newCA(t, "root", nil, nil)
	w.ca, w.caKey = newCA(t, "workload", w.root, w.rootKey)
	_, w.tokenKey = newCA(t, "token", nil, nil)
	_, w.nodeKey = newCA(t, "node", nil, nil)
	w.dir = must[string](t)(os.MkdirTemp("", "svid"))
	t.Cleanup(func() { os.RemoveAll(w.dir) })
	w.Holder = New(Config{ClusterID: w.cluster, MaxLife: life, Roots: func() []*x509.Certificate { return []*x509.Certificate{w.root} },
		Say: func(m []byte) ([][]byte, []byte, error) {
			sum := sha256.Sum256(m)
			sig, err := ecdsa.SignASN1(rand.Reader, w.nodeKey, sum[:])
			return [][]byte{w.ca.Raw}, sig, err
		},
		Issue: w.answer, Denied: func(id string, _ time.Time) bool { w.mu.Lock(); defer w.mu.Unlock(); return w.denied[id] },
		DenialsChanged: func() <-chan struct{} { w.mu.Lock(); defer w.mu.Unlock(); return w.changed },
		Report: func(_ context.Context, r *schedulerpb.IdentityReport) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.reports = append(w.reports, r)
			return nil
		}})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	l := must[net.Listener](t)(net.Listen("unix", filepath.Join(w.dir, "rund")))
	wg.Go(func() { w.Run(ctx) })
	wg.Go(func() {
		w.Serve(ctx, func(ctx context.Context) (*net.UnixConn, error) {
			c, err := net.Dial("unix", filepath.Join(w.dir, "rund"))
			if err != nil {
				return nil, err
			}
			return c.(*net.UnixConn), nil
		})
	})
	wg.Go(func() { w.rund(ctx, l) })
	t.Cleanup(func() { cancel(); l.Close(); wg.Wait() })
	return w
}

func (w *world) rund(ctx context.Context, l net.Listener) {
	c, err := l.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case x := <-w.hand:
			f, err := x.conn.File()
			if err == nil {
				wire.WriteFiles(c.(*net.UnixConn), &rundpb.IdentityCaller{TaskId: x.task}, f)
				f.Close()
			}
			x.conn.Close()
		}
	}
}

// socket makes the Workload API's socket of a task and returns its address.
func (w *world) socket(task string) string {
	path := filepath.Join(w.dir, task)
	l := must[net.Listener](w.t)(net.Listen("unix", path))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.hand <- rundConn{task, c.(*net.UnixConn)}
		}
	}()
	w.t.Cleanup(func() { l.Close(); <-done })
	return "unix://" + path
}

func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.changed)
	w.changed = make(chan struct{})
}

// answer is the managers'.
func (w *world) answer(_ context.Context, req *schedulerpb.IssueRequest) (*schedulerpb.IssueResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return nil, errors.New("away")
	}
	batch, err := &profilepb.WorkloadBatch{}, error(nil)
	if len(req.GetBatch()) > 0 {
		batch, err = profile.ParseBatch(req.GetBatch())
	}
	if err != nil {
		return nil, err
	}
	resp := &schedulerpb.IssueResponse{Issuer: &profilepb.CertificateChain{Certificates: [][]byte{w.ca.Raw, w.root.Raw}}}
	spki, err := x509.MarshalPKIXPublicKey(&w.tokenKey.PublicKey)
	if err != nil {
		return nil, err
	}
	bundle, err := proto.Marshal(&profilepb.WorkloadBundle{ClusterId: w.cluster, Epoch: 1 + w.epoch, Keys: []*profilepb.WorkloadKey{{Id: profile.BundleKeyID(spki), Spki: spki}}})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(profile.BundleInput(bundle))
	sig, err := ecdsa.SignASN1(rand.Reader, w.caKey, sum[:])
	if err != nil {
		return nil, err
	}
	resp.Bundle = &profilepb.SignedWorkloadBundle{Bundle: bundle, Signature: sig, Issuer: resp.Issuer}
	for _, item := range batch.Items {
		w.issued++
		_, stack, service, _ := profile.ParseServiceURI(item.Identity)
		if item.GetCsr() == nil {
			resp.Documents = append(resp.Documents, &profilepb.WorkloadDocument{Document: &profilepb.WorkloadDocument_Token{Token: w.token(item, profile.BundleKeyID(spki))}})
			continue
		}
		csr, err := profile.ParseCSR(item.GetCsr())
		if err != nil {
			return nil, err
		}
		c := profile.SVIDTemplate(profile.ServiceURI(w.cluster, stack, service), time.Now(), time.Duration(item.Life)*time.Second)
		c.SerialNumber = big.NewInt(time.Now().UnixNano())
		der, err := x509.CreateCertificate(rand.Reader, c, w.ca, csr.Request.PublicKey, w.caKey)
		if err != nil {
			return nil, err
		}
		resp.Documents = append(resp.Documents, &profilepb.WorkloadDocument{Document: &profilepb.WorkloadDocument_Certificate{Certificate: der}})
	}
	if w.lie != nil {
		w.lie(resp)
	}
	return resp, nil
}

func (w *world) token(item *profilepb.WorkloadItem, kid string) string {
	head, _ := json.Marshal(map[string]string{"alg": "ES256", "kid": kid, "typ": "JWT"})
	claims, _ := json.Marshal(map[string]any{"sub": item.Identity, "aud": item.GetAudience().GetNames(), "exp": time.Now().Unix() + item.Life, "iat": time.Now().Unix()})
	text := base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(claims)
	sum := sha256.Sum256([]byte(text))
	r, s, _ := ecdsa.Sign(rand.Reader, w.tokenKey, sum[:])
	var raw [64]byte
	r.FillBytes(raw[:32])
	s.FillBytes(raw[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(raw[:])
}

func (w *world) id(service string) string {
	return profile.ServiceURI(w.cluster, "", service).String()
}
