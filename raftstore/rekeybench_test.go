package raftstore_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testseal"
)

// BenchmarkRekey renews the key of a store of 100 MiB while one client writes 1 KiB
// objects, one after the other. quiet-ms is that client's median before, longest-ms
// its slowest write meanwhile.
func BenchmarkRekey(b *testing.B) {
	ring := testseal.NewRing(1)
	c := soloConfig(b.TempDir(), ring)
	c.TrailingLogs = 0 // the default
	c.ElectionTimeout = 0
	s := begun(b, c)
	const each, size = 500, 1 << 10
	for i := range 100 << 20 / size / each {
		objs := make([]*testpb.Thing, each)
		for j := range objs {
			objs[j] = &testpb.Thing{Id: fmt.Sprintf("object-%d-%d", i, j), Payload: make([]byte, size)}
		}
		put(b, s, objs...)
	}
	if err := s.Snapshot(b.Context()); err != nil {
		b.Fatal(err)
	}
	n := 0
	write := func() time.Duration {
		n++
		began := time.Now()
		put(b, s, &testpb.Thing{Id: fmt.Sprintf("meanwhile-%d", n), Payload: make([]byte, size)})
		return time.Since(began)
	}
	var quiet []time.Duration
	for range 500 {
		quiet = append(quiet, write())
	}
	slices.Sort(quiet)
	epoch := uint32(1)
	var longest time.Duration
	var wrote int
	b.ResetTimer()
	for b.Loop() {
		ring.Add(epoch + 1)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					longest = max(longest, write())
					wrote++
				}
			}
		})
		if _, err := s.Rekey(b.Context()); err != nil {
			b.Fatal(err)
		}
		close(stop)
		wg.Wait()
		ring.Drop(epoch)
		epoch++
	}
	b.ReportMetric(float64(quiet[len(quiet)/2].Microseconds())/1e3, "quiet-ms")
	b.ReportMetric(float64(longest.Microseconds())/1e3, "longest-ms")
	b.ReportMetric(float64(wrote)/float64(b.N), "writes/op")
}

var _ raftstore.Keyring = (*testseal.Ring)(nil)
