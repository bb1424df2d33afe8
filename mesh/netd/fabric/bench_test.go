package fabric

import (
	"crypto/ecdh"
	"crypto/rand"
	"fmt"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

func manyPeers(b *testing.B, n int, called bool) (out []*netdpb.FabricPeer) {
	b.Helper()
	for i := range n {
		k, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		secret := make([]byte, 32)
		rand.Read(secret)
		p := &netdpb.FabricPeer{NodeId: ident.New(), PublicKey: k.PublicKey().Bytes(), PresharedKey: secret, Address: fmt.Sprintf("198.18.%d.%d", 1+i/250, 1+i%250)}
		if called {
			p.Endpoint = fmt.Sprintf("192.0.2.9:%d", 10000+i)
		}
		out = append(out, p)
	}
	return out
}

const benchPeers = 5000

// cpu is what this process has used of it, in all threads.
func cpu(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkAddPeers is one declaration of 5,000 peers to a node without any,
// until it is answered: peers that call, and peers that are called, where nobody
// answers.
func BenchmarkAddPeers(b *testing.B) {
	b.Run("heard", func(b *testing.B) { addPeers(b, manyPeers(b, benchPeers, false)) })
	b.Run("called", func(b *testing.B) { addPeers(b, manyPeers(b, benchPeers, true)) })
}

func addPeers(b *testing.B, peers []*netdpb.FabricPeer) {
	var used time.Duration
	var inUse uint64
	defer func() {
		b.ReportMetric(float64(used.Milliseconds())/float64(b.N), "cpu-ms/op")
		b.ReportMetric(float64(inUse>>20), "MiB")
	}()
	for b.Loop() {
		b.StopTimer()
		l := newLab(b, 1)
		n := l.nodes[0]
		n.declare(n.request())
		req := n.request()
		req.Peers = peers
		req = proto.Clone(req).(*netdpb.FabricRequest)
		began := cpu(b)
		b.StartTimer()
		n.declare(req)
		b.StopTimer()
		used += cpu(b) - began
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		inUse = m.HeapInuse + m.StackInuse
		n.stop()
		b.StartTimer()
	}
}

// BenchmarkOneChange is a difference that gives one of 5,000 peers another
// pre-shared key and endpoint, until it is answered.
func BenchmarkOneChange(b *testing.B) {
	peers := manyPeers(b, benchPeers, false)
	n := newLab(b, 1).nodes[0]
	head := n.request()
	req := proto.Clone(head).(*netdpb.FabricRequest)
	req.Peers = peers
	n.declare(proto.Clone(req).(*netdpb.FabricRequest))
	var used time.Duration
	defer func() { b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-µs/op") }()
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		p := proto.Clone(peers[i%benchPeers]).(*netdpb.FabricPeer)
		p.Endpoint = fmt.Sprintf("192.0.2.8:%d", 1+i%60000)
		rand.Read(p.PresharedKey)
		n.gen++
		one := proto.Clone(head).(*netdpb.FabricRequest)
		one.Generation, one.Base, one.Peers = n.gen, n.gen-1, []*netdpb.FabricPeer{p}
		began := cpu(b)
		b.StartTimer()
		n.declare(one)
		b.StopTimer()
		used += cpu(b) - began
		b.StartTimer()
	}
}

// BenchmarkDiff is the comparison of 5,000 peers with a device that has them.
func BenchmarkDiff(b *testing.B) {
	d, err := parse(&netdpb.FabricRequest{Generation: 1, OwnPublicKey: key(1), Address: "198.18.0.1/15", Peers: manyPeers(b, benchPeers, false)})
	if err != nil {
		b.Fatal(err)
	}
	p, _, err := emptyPlan().merge(d)
	if err != nil {
		b.Fatal(err)
	}
	have := entries{}
	p.apply(have, p.diff(have, nil, nil), nil)
	for b.Loop() {
		if told := p.diff(have, nil, nil); len(told) != 0 {
			b.Fatal(len(told))
		}
	}
}
