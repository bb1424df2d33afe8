package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

// BenchmarkPath is what authorisation and the audit log add to a call as an operator
// makes it: clients at the leader's socket, and three managers that write to real files,
// sync them, and speak raft by mutual TLS over loopback, all in one process. The other
// side of the comparison is a socket of the same manager, made here alone, whose calls
// come to the handlers without being admitted, judged or recorded. The two take turns,
// b.N of each; what is told are medians of the turns, and how much one median is more than
// the other.
//
//	go test -run NONE -bench Path -benchtime 40x ./cmd/internal/node
func BenchmarkPath(b *testing.B) {
	ca := pkitest.New(b)
	self, store, others := threeManagers(b, ca)
	w := newCallerWorldOn(b, ca, self, store)
	others(w)
	data := make([]byte, 1024)
	spec := func(name string) *controlpb.CreateConfigRequest {
		return &controlpb.CreateConfigRequest{Spec: &secretspb.ConfigSpec{Name: name, Data: data}}
	}
	bare, judged := w.connect(b, w.unjudged(b)), w.connect(b, w.local)
	if _, err := judged[0].CreateConfig(b.Context(), spec("one")); err != nil {
		b.Fatal(err)
	}
	var unique atomic.Int64
	write := func(ctx context.Context, c *apiclient.Client) error {
		_, err := c.CreateConfig(ctx, spec(fmt.Sprint("bench-", unique.Add(1))))
		return err
	}
	get := func(ctx context.Context, c *apiclient.Client) error {
		_, err := c.GetConfigs(ctx, &controlpb.GetConfigsRequest{Configs: []string{"one"}})
		return err
	}
	list := func(ctx context.Context, c *apiclient.Client) error {
		_, err := c.ListTokens(ctx, &controlpb.ListTokensRequest{})
		return err
	}
	for _, c := range []struct {
		name    string
		clients int
		call    func(context.Context, *apiclient.Client) error
	}{{"write", 64, write}, {"write", 1, write}, {"read", 1, list}, {"read", 64, list}, {"read and recorded", 1, get}} {
		b.Run(fmt.Sprintf("%s/clients=%d", c.name, c.clients), func(b *testing.B) {
			turn(b, bare, c.clients, c.call) // warms up
			turn(b, judged, c.clients, c.call)
			w.removeConfigs(b, "bench-")
			var without, with turns
			for i := range b.N {
				if i%2 == 0 {
					without.add(turn(b, bare, c.clients, c.call))
				}
				with.add(turn(b, judged, c.clients, c.call))
				if i%2 != 0 {
					without.add(turn(b, bare, c.clients, c.call))
				}
				w.removeConfigs(b, "bench-") // there is room for 128 MiB
			}
			b.ReportMetric(median(without.clock), "bare-µs")
			b.ReportMetric(median(with.clock), "judged-µs")
			b.ReportMetric(100*(median(with.clock)/median(without.clock)-1), "added-%")
			b.ReportMetric(median(without.cpu), "bare-cpu-µs")
			b.ReportMetric(median(with.cpu), "judged-cpu-µs")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// turns are what a call took in each turn, in microseconds: of the clock, divided among
// the calls, and of processors.
type turns struct{ clock, cpu []float64 }

func (t *turns) add(clock, cpu float64) {
	t.clock, t.cpu = append(t.clock, clock), append(t.cpu, cpu)
}

// turnLength is short, so that what else the machine does falls on both sides.
const turnLength = 300 * time.Millisecond

// turn calls for as long as that.
func turn(b *testing.B, conns []*apiclient.Client, clients int, call func(context.Context, *apiclient.Client) error) (clock, cpu float64) {
	b.Helper()
	var calls atomic.Int64
	var wg sync.WaitGroup
	before, begin := processorTime(b), time.Now()
	for i := range clients {
		wg.Go(func() {
			for time.Since(begin) < turnLength {
				if err := call(b.Context(), conns[i%len(conns)]); err != nil {
					b.Error(err)
					return
				}
				calls.Add(1)
			}
		})
	}
	wg.Wait()
	n := max(float64(calls.Load()), 1)
	return float64(time.Since(begin).Microseconds()) / n, float64((processorTime(b) - before).Microseconds()) / n
}

func median(s []float64) float64 {
	s = slices.Sorted(slices.Values(s))
	return s[len(s)/2]
}

// removeConfigs removes those whose name begins so.
func (w *callerWorld) removeConfigs(b *testing.B, prefix string) {
	b.Helper()
	for more := true; more; {
		w.update(b, func(tx *raftstore.Tx) error {
			var some []*secretspb.Config
			for c := range secretstore.Configs.All(tx) {
				if strings.HasPrefix(c.GetSpec().GetName(), prefix) && len(some) < 500 {
					some = append(some, c)
				}
			}
			more = len(some) > 0
			for _, c := range some {
				if err := secretstore.RemoveConfig(tx, c, 0); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

func (w *callerWorld) connect(b *testing.B, socket string) (out []*apiclient.Client) {
	b.Helper()
	for range 8 {
		c, err := apiclient.Dial(b.Context(), socket)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		out = append(out, c)
	}
	return out
}

// unjudged serves a socket whose calls come to the handlers as they are.
func (w *callerWorld) unjudged(b *testing.B) (socket string) {
	b.Helper()
	for w.m.direct.Load() == nil {
		<-w.m.serving
	}
	api := w.m.direct.Load().api
	bare := func(method string) directCall {
		if unaryMethods[method] == nil {
			return nil
		}
		return func(ctx context.Context, decode func(any) error) (any, error) {
			return unaryMethods[method].Handler(api, ctx, decode, nil)
		}
	}
	socket = filepath.Join(filepath.Dir(w.local), "bare.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	az := authz.New(authz.Config{Manager: func() bool { return true }, Carries: true})
	serveInTest(b, func(ctx context.Context) error {
		return w.m.n.serveOperators(ctx, []net.Listener{l}, az, az.LocalServerOptions(), proxy{w.m.n.dialLeader, bare}, func(*grpc.Server) {})
	})
	return socket
}

// threeManagers returns a manager and its store, which leads. others adds two that
// follow, each with a port 2377 of its own.
func threeManagers(b *testing.B, ca *pkitest.CA) (self *pkitest.Node, leader *raftstore.Store, others func(*callerWorld)) {
	b.Helper()
	var all []*raftstore.Store
	b.Cleanup(func() { // all at once: one that is left alone waits for a leader
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		var wg sync.WaitGroup
		for _, s := range all {
			wg.Go(func() {
				if err := s.Close(ctx); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
	})
	self = ca.NewNode(b, profilepb.Role_ROLE_MANAGER)
	open := func(n *pkitest.Node) (_ *raftstore.Store, addr string) {
		id := n.Record.GetId()
		p, addr := newTestPort(b, n.Boot, func(string, *authz.Peer) error { return nil })
		p.Unlock(n.Credentials, func() port.Leader { return port.Leader{} })
		l, err := p.Listen(pki.ALPNRaft)
		if err != nil {
			b.Fatal(err)
		}
		s, err := raftstore.Open(b.Context(), raftstore.Config{Dir: b.TempDir(), NodeID: id, ClusterID: ca.ClusterID, Tables: tables(), Sealer: raftstoretest.NewSealer(),
			Logger: slog.New(slog.DiscardHandler), InitialPeers: []string{self.Record.GetId()},
			Transport: raftstore.Transport{Listener: l, Advertise: raftstore.JoinAddr(id, addr), Dial: port.RaftDialer(n.Credentials)}})
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, s)
		return s, addr
	}
	leader, _ = open(self)
	if err := leader.Bootstrap(); err != nil {
		b.Fatal(err)
	}
	raftstoretest.WaitLeader(b, leader)
	return self, leader, func(w *callerWorld) {
		for range 2 {
			n := w.put(b, ca.NewNode(b, profilepb.Role_ROLE_MANAGER)) // or it would be taken out again
			_, addr := open(n)
			if err := leader.AddVoter(b.Context(), n.Record.GetId(), addr); err != nil {
				b.Fatal(err)
			}
		}
	}
}
