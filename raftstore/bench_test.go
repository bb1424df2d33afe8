package raftstore_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// BenchmarkStore drives three managers in one process: mutual TLS 1.3 over
// loopback, sealed records, real files and real syncs.
//
//	go test -run NONE -bench Store -benchtime 5s ./raftstore/
func BenchmarkStore(b *testing.B) {
	for _, kind := range []raftstore.LogStore{raftstore.LogBolt, raftstore.LogWAL} {
		for _, clients := range []int{1, 64} {
			b.Run(fmt.Sprintf("write/%s/clients=%d", kind, clients), func(b *testing.B) {
				leader := benchCluster(b, kind)
				payload := make([]byte, 1024)
				var n atomic.Uint64
				drive(b, clients, func(ctx context.Context) error {
					o := &testpb.Thing{Id: fmt.Sprintf("object-%d", n.Add(1)), Payload: payload}
					return leader.Update(ctx, func(tx *raftstore.Tx) error { return things.Put(tx, o) })
				})
			})
		}
	}
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprintf("read/clients=%d", clients), func(b *testing.B) {
			leader := benchCluster(b, raftstore.LogBolt)
			put(b, leader, &testpb.Thing{Id: "x", Payload: make([]byte, 1024)})
			drive(b, clients, func(ctx context.Context) error {
				if err := leader.Barrier(ctx); err != nil {
					return err
				}
				return leader.View(func(r *raftstore.ReadTx) error {
					if _, ok := things.Get(r, "x"); !ok {
						return errors.New("it is gone")
					}
					return nil
				})
			})
		})
	}
}

// drive calls do b.N times from that many clients.
func drive(b *testing.B, clients int, do func(context.Context) error) {
	var next atomic.Int64
	var mu sync.Mutex // guards all
	var all []time.Duration
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	begin := time.Now()
	for range clients {
		wg.Go(func() {
			var mine []time.Duration
			for next.Add(1) <= int64(b.N) {
				start := time.Now()
				if err := do(b.Context()); err != nil {
					b.Error(err)
					return
				}
				mine = append(mine, time.Since(start))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
		})
	}
	wg.Wait()
	took := time.Since(begin)
	b.StopTimer()
	slices.Sort(all)
	if len(all) == 0 {
		return
	}
	b.ReportMetric(float64(len(all))/took.Seconds(), "ops/s")
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
}

// benchCluster returns the leader of three managers.
func benchCluster(b *testing.B, kind raftstore.LogStore) *raftstore.Store {
	ca := newBenchCA(b)
	var all []*raftstore.Store
	b.Cleanup(func() { // all at once: one that is left alone waits for a leader
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		for _, s := range all {
			wg.Go(func() {
				if err := s.Close(ctx); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
	})
	for i := range 3 {
		id := fmt.Sprintf("m%d", i)
		tr, hostport := ca.transport(b, id)
		s, err := raftstore.Open(b.Context(), raftstore.Config{
			Dir: b.TempDir(), NodeID: id, ClusterID: "bench", Tables: []raftstore.Registered{things}, LogStore: kind,
			Sealer: raftstoretest.NewSealer(), Logger: slog.New(slog.DiscardHandler), Transport: tr, InitialPeers: []string{"m0"},
		})
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, s)
		if i == 0 {
			if err := s.Bootstrap(); err != nil {
				b.Fatal(err)
			}
			raftstoretest.WaitLeader(b, s)
		} else if err := all[0].AddVoter(waitContext(b), id, hostport); err != nil {
			b.Fatal(err)
		}
	}
	return all[0]
}

// benchCA certifies ids as common names.
type benchCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newBenchCA(b testing.TB) *benchCA {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		b.Fatal(err)
	}
	c := &benchCA{key: key, pool: x509.NewCertPool()}
	if c.cert, err = x509.ParseCertificate(der); err != nil {
		b.Fatal(err)
	}
	c.pool.AddCert(c.cert)
	return c
}

func (c *benchCA) transport(b testing.TB, id string) (raftstore.Transport, string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: id}, DNSNames: []string{id},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, c.cert, key.Public(), c.key)
	if err != nil {
		b.Fatal(err)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: c.pool, ClientCAs: c.pool, ClientAuth: tls.RequireAndVerifyClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	return raftstore.Transport{
		Listener: tlsListener{l, conf}, Advertise: raftstore.JoinAddr(id, l.Addr().String()),
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			peer, hostport, err := raftstore.SplitAddr(addr)
			if err != nil {
				return nil, err
			}
			conf := conf.Clone()
			conf.ServerName = peer
			return (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", hostport)
		},
	}, l.Addr().String()
}

// tlsListener gives connections the name in their peer's certificate.
type tlsListener struct {
	net.Listener
	conf *tls.Config
}

func (l tlsListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tc := tls.Server(c, l.conf)
		if err := tc.Handshake(); err != nil {
			_ = tc.Close()
			continue
		}
		return tlsPeer{tc}, nil
	}
}

type tlsPeer struct{ *tls.Conn }

func (p tlsPeer) PeerID() string { return p.ConnectionState().PeerCertificates[0].Subject.CommonName }
