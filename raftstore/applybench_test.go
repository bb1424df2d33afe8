package raftstore

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
)

// BenchmarkApply writes to a table of 10,000 objects with three indexed keys each
// and two sums, so many objects an entry: what every manager does with each write.
//
//	go test -run NONE -bench Apply ./raftstore/
func BenchmarkApply(b *testing.B) {
	const objects = 10_000
	for _, each := range []int{1, 64} {
		b.Run(fmt.Sprintf("objects=%d", each), func(b *testing.B) {
			f := newTestFSM(b)
			versions := make([]uint64, objects)
			index, next := uint64(0), 0
			entry := func(n int) *raft.Log {
				index++
				c := &raftstorepb.Command{Now: int64(index)}
				for range n {
					i := next * 7919 % objects
					next++
					o := &testpb.Thing{Id: fmt.Sprintf("%026d", i*7919%objects), Name: fmt.Sprint("name-", i), Labels: []string{fmt.Sprint("node-", i%100), "service"}}
					c.Transactions = append(c.Transactions, tx(putOp(b, versions[i], o)))
					versions[i] = index
				}
				data, err := proto.Marshal(c)
				if err != nil {
					b.Fatal(err)
				}
				return &raft.Log{Index: index, Data: data}
			}
			run := func(e *raft.Log) {
				for _, err := range f.Apply(e).([]error) {
					if err != nil {
						b.Fatal(err)
					}
				}
			}
			for range objects / 100 {
				run(entry(100))
			}
			entries := make([]*raft.Log, b.N)
			for i := range entries {
				entries[i] = entry(each)
			}
			runtime.GC()
			b.ReportAllocs()
			b.ResetTimer()
			before := processorTime(b)
			for _, e := range entries {
				run(e)
			}
			b.ReportMetric(float64(processorTime(b)-before)/float64(b.N*each), "cpu-ns/object")
		})
	}
}

// processorTime is what this process used, the collector with it: a loaded
// machine changes it less than the clock on the wall.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
