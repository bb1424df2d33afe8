package pki_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// signs answers renewals straight from the authority.
func signs(ca *pkitest.CA, creds *pki.Credentials) func(context.Context, *pkipb.RenewRequest) (*pkipb.RenewResponse, error) {
	return func(ctx context.Context, q *pkipb.RenewRequest) (*pkipb.RenewResponse, error) {
		issued, err := ca.SignRenew(ctx, pki.SignRenew{Old: creds.Chain(), CSR: q.GetCsr(), BootCSR: q.GetBootCsr(), Proof: q.GetProof()})
		return &pkipb.RenewResponse{Leaf: issued.Leaf, Boot: issued.Boot}, err
	}
}

func TestRenewerTiming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := pkitest.New(t)
		n := ca.NewNode(t, manager)
		sign := signs(ca, n.Credentials)
		var mu sync.Mutex // guards at, persisted and fail
		var at []time.Time
		var persisted []pki.Renewed
		fail := 0
		r := &pki.Renewer{
			Credentials: n.Credentials, Boot: n.Boot, Logger: slog.New(slog.DiscardHandler),
			Call: func(ctx context.Context, q *pkipb.RenewRequest) (*pkipb.RenewResponse, error) {
				mu.Lock()
				defer mu.Unlock()
				at = append(at, time.Now())
				if fail > 0 {
					fail--
					return nil, errors.New("no leader")
				}
				return sign(ctx, q)
			},
			Persist: func(_ context.Context, r pki.Renewed) error {
				mu.Lock()
				defer mu.Unlock()
				persisted = append(persisted, r)
				return nil
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()

		// pass lets time go by with the lock released.
		pass := func(d time.Duration) {
			mu.Unlock()
			time.Sleep(d) // synctest's clock
			synctest.Wait()
			mu.Lock()
		}
		mu.Lock()
		first, start := n.Leaf(), time.Now()
		pass(12*time.Hour - time.Second)
		if len(at) != 0 {
			t.Errorf("renewed after %s, before half of the life", at[0].Sub(start))
		}
		pass(24*time.Hour*3/10 + 2*time.Second)
		if len(at) != 1 || len(persisted) != 1 {
			t.Fatalf("%d renewals by 80 %% of the life", len(at))
		}
		if n.Leaf().Equal(first) || persisted[0].Key == nil || persisted[0].Boot != nil {
			t.Error("the new certificate is not in use, or a boot leaf came too early")
		}

		// Failures: tried again with growing pauses, and for as long as it takes.
		fail = 8
		pass(48 * time.Hour)
		var failures []time.Duration
		for i := 2; i < len(at) && i < 9; i++ {
			failures = append(failures, at[i].Sub(at[i-1]))
		}
		if fail != 0 || len(failures) != 7 {
			t.Fatalf("%d failures left, pauses %v", fail, failures)
		}
		for i, d := range failures {
			low := min(5*time.Second<<i, 10*time.Minute) / 2
			if d < low || d > 3*low {
				t.Errorf("pause %d is %s, want about %s", i, d, 2*low)
			}
		}

		// After half a year the boot leaf is renewed along.
		pass(200 * 24 * time.Hour)
		boots := 0
		for _, p := range persisted {
			if p.Boot != nil {
				boots++
			}
		}
		if boots != 1 {
			t.Errorf("%d boot leaves in 200 days", boots)
		}
		mu.Unlock()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestRenewerKeepsWhatItHas: nothing that cannot be used or kept replaces the
// certificate in use.
func TestRenewerKeepsWhatItHas(t *testing.T) {
	ca, other := pkitest.New(t), pkitest.New(t)
	for name, c := range map[string]struct {
		call    func(*pkitest.Node) func(context.Context, *pkipb.RenewRequest) (*pkipb.RenewResponse, error)
		persist error
	}{
		"foreign authority": {call: func(n *pkitest.Node) func(context.Context, *pkipb.RenewRequest) (*pkipb.RenewResponse, error) {
			return func(_ context.Context, q *pkipb.RenewRequest) (*pkipb.RenewResponse, error) {
				csr, err := profile.ParseCSR(q.GetCsr())
				if err != nil {
					return nil, err
				}
				leaf, err := other.Issue(n.Identity(), csr.Request.PublicKey, time.Now(), time.Hour)
				return &pkipb.RenewResponse{Leaf: leaf}, err
			}
		}},
		"another key": {call: func(n *pkitest.Node) func(context.Context, *pkipb.RenewRequest) (*pkipb.RenewResponse, error) {
			return func(context.Context, *pkipb.RenewRequest) (*pkipb.RenewResponse, error) {
				return &pkipb.RenewResponse{Leaf: n.Chain()}, nil
			}
		}},
		"nothing": {call: func(*pkitest.Node) func(context.Context, *pkipb.RenewRequest) (*pkipb.RenewResponse, error) {
			return func(context.Context, *pkipb.RenewRequest) (*pkipb.RenewResponse, error) {
				return &pkipb.RenewResponse{}, nil
			}
		}},
		"disk full": {persist: errors.New("disk full"), call: func(n *pkitest.Node) func(context.Context, *pkipb.RenewRequest) (*pkipb.RenewResponse, error) {
			return signs(ca, n.Credentials)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			// Due at once: issued 23 hours ago.
			n := ca.NewNodeAt(t, worker, time.Now().Add(-23*time.Hour))
			before := n.Leaf()
			ctx, cancel := context.WithCancel(t.Context())
			called := make(chan struct{}, 1)
			call := c.call(n)
			r := &pki.Renewer{
				Credentials: n.Credentials, Logger: slog.New(handlerFunc(func() { cancel() })),
				Call: func(ctx context.Context, q *pkipb.RenewRequest) (*pkipb.RenewResponse, error) {
					called <- struct{}{}
					return call(ctx, q)
				},
				Persist: func(context.Context, pki.Renewed) error {
					if c.persist == nil {
						t.Error("persisted what cannot be used")
					}
					return c.persist
				},
			}
			if err := r.Run(ctx); err != nil {
				t.Error(err)
			}
			if len(called) != 1 || !n.Leaf().Equal(before) {
				t.Error("the certificate in use was replaced")
			}
		})
	}
}

// handlerFunc is a log handler that runs a function at the first line.
type handlerFunc func()

func (f handlerFunc) Enabled(context.Context, slog.Level) bool  { return true }
func (f handlerFunc) Handle(context.Context, slog.Record) error { f(); return nil }
func (f handlerFunc) WithAttrs([]slog.Attr) slog.Handler        { return f }
func (f handlerFunc) WithGroup(string) slog.Handler             { return f }

// member writes a node's record into the cluster's store.
func (c *cluster) member(role profilepb.Role, issued time.Time) *pkitest.Node {
	n := c.NewNodeAt(c.t, role, issued)
	c.update(func(tx *raftstore.Tx) error { return store.Nodes.Put(tx, n.Record) })
	return n
}

// renewOnce runs a Renewer until it has a new certificate.
func (c *cluster) renewOnce(n *pkitest.Node) error {
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	var failed error
	r := &pki.Renewer{
		Credentials: n.Credentials, Logger: slog.New(handlerFunc(cancel)),
		Call: func(ctx context.Context, q *pkipb.RenewRequest) (*pkipb.RenewResponse, error) {
			cc, err := port.DialGRPC(ctx, n.Credentials, []string{c.addr})
			if err != nil {
				failed = err
				return nil, err
			}
			defer cc.Close()
			resp, err := pkipb.NewRenewClient(cc).Renew(ctx, q)
			failed = err
			return resp, err
		},
		Persist: func(context.Context, pki.Renewed) error { return nil },
	}
	r.Run(ctx)
	return failed
}

func TestRenew(t *testing.T) {
	c := newCluster(t)
	n := c.member(worker, time.Now().Add(-23*time.Hour))
	old, oldCreds := n.Identity().SPKI, *n
	stale, err := pki.NewCredentials(n.Chain(), n.Key, c.Trust())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.renewOnce(n); err != nil {
		t.Fatal(err)
	}
	rec := c.node(oldCreds.Record.GetId())
	if string(rec.GetPreviousSpki()) != string(old) || string(rec.GetLeafSpki()) != string(n.Identity().SPKI) ||
		rec.GetLeafNotAfter() != n.Leaf().NotAfter.Unix() {
		t.Error("the record was not moved along")
	}
	// The reply was lost: the node asks again with the certificate it still has.
	oldCreds.Credentials = stale
	if err := c.renewOnce(&oldCreds); err != nil {
		t.Errorf("asking again after a lost reply: %v", err)
	}
	// The certificate whose reply was lost is neither current nor previous now.
	if _, err := call(t, c, n.Credentials); status.Code(err) == codes.InvalidArgument {
		t.Error("a certificate two generations old was accepted")
	}
}

// TestRenewWithMany: what a worker was given stays noted until it has ended; it renews no
// more where there is no room.
func TestRenewWithMany(t *testing.T) {
	c := newCluster(t)
	for _, tc := range []struct {
		live, ended int
		ok          bool
	}{{31, 0, true}, {32, 0, false}, {31, 1, true}} {
		n := c.member(worker, time.Now().Add(-23*time.Hour))
		var noted []*pkipb.IssuedCertificate
		for i := range tc.live + tc.ended {
			end := time.Now().Add(time.Hour)
			if i < tc.ended {
				end = time.Now().Add(-2 * time.Hour)
			}
			noted = append(noted, &pkipb.IssuedCertificate{Serial: []byte{1, byte(i)}, Issuer: []byte("x"), NotAfter: end.Unix()})
		}
		c.update(func(tx *raftstore.Tx) error {
			rec, _ := store.Nodes.Get(tx, n.Record.GetId())
			rec = proto.CloneOf(rec)
			rec.Certificates = noted
			return store.Nodes.Put(tx, rec)
		})
		if err := c.renewOnce(n); (err == nil) != tc.ok || !tc.ok && (status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "try again later")) {
			t.Errorf("with %d certificates that have not ended: %v", tc.live, err)
		}
		kept := map[string]bool{}
		for _, k := range c.node(n.Record.GetId()).GetCertificates() {
			kept[string(k.GetSerial())] = true
		}
		for _, k := range noted[tc.ended:] {
			if !kept[string(k.GetSerial())] {
				t.Fatal("one that has not ended is forgotten")
			}
		}
	}
}

// call makes a call that a member is admitted to and that then fails as
// InvalidArgument.
func call(t *testing.T, c *cluster, creds *pki.Credentials) (*pkipb.RenewResponse, error) {
	cc, err := port.DialGRPC(t.Context(), creds, []string{c.addr})
	if err != nil {
		return nil, err
	}
	defer cc.Close()
	return pkipb.NewRenewClient(cc).Renew(t.Context(), &pkipb.RenewRequest{})
}

func TestRenewExpired(t *testing.T) {
	c := newCluster(t)
	late := c.member(worker, time.Now().Add(-20*24*time.Hour))
	if err := c.renewOnce(late); err != nil {
		t.Errorf("a worker 19 days late: %v", err)
	}
	if late.Leaf().NotAfter.Before(time.Now()) {
		t.Error("the new certificate is expired as well")
	}
	if err := c.renewOnce(c.member(worker, time.Now().Add(-40*24*time.Hour))); err == nil {
		t.Error("a worker 39 days late was renewed")
	}
	if _, err := call(t, c, c.member(manager, time.Now().Add(-25*time.Hour)).Credentials); status.Code(err) == codes.InvalidArgument || err == nil {
		t.Errorf("a manager an hour late got through: %v", err)
	}
}

func TestRenewRefusals(t *testing.T) {
	c := newCluster(t)
	n := c.member(worker, time.Now())
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := profile.NewCSR(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	sameKey, err := profile.NewCSR(n.Key, nil)
	if err != nil {
		t.Fatal(err)
	}
	proof := func(csr, boot []byte) []byte {
		p, err := profile.SignRenewProof(n.Key, csr, boot, n.Leaf().Raw)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	stranger, err := profile.SignRenewProof(key, csr, nil, n.Leaf().Raw)
	if err != nil {
		t.Fatal(err)
	}
	for name, q := range map[string]*pkipb.RenewRequest{
		"no proof":            {Csr: csr},
		"proof by a stranger": {Csr: csr, Proof: stranger},
		"other request":       {Csr: csr, Proof: proof(sameKey, nil)},
		"the old key":         {Csr: sameKey, Proof: proof(sameKey, nil)},
		"a worker's boot":     {Csr: csr, BootCsr: csr, Proof: proof(csr, csr)},
	} {
		cc, err := port.DialGRPC(t.Context(), n.Credentials, []string{c.addr})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pkipb.NewRenewClient(cc).Renew(t.Context(), q); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
		cc.Close()
	}
	if string(c.node(n.Record.GetId()).GetLeafSpki()) != string(n.Identity().SPKI) {
		t.Error("a refused renewal changed the record")
	}
}
