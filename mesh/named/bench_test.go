package named_test

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/named/hand"
	"github.com/redoubt-cluster/redoubt/mesh/named/namedpb"
)

// manyNames is a network of so many services, each of one task.
func manyNames(id string, count int) *namedpb.Network {
	n := &namedpb.Network{Id: id}
	for i := range count {
		n.Services = append(n.Services, &namedpb.Service{Name: fmt.Sprintf("service-%d", i), Vips: []string{fmt.Sprintf("10.201.%d.%d", i>>8, i&255)},
			Tasks: []*namedpb.Task{{Id: fmt.Sprint(i), Slot: 1, Addresses: []string{fmt.Sprintf("10.200.%d.%d", i>>8, i&255)}, Ready: true}}})
	}
	return n
}

// BenchmarkQueries asks for 10,000 names in turn from 8 sandboxes at once, each
// with one query under way, over their real sockets.
func BenchmarkQueries(b *testing.B) {
	n := newNode(b)
	n.start()
	h, _ := n.netd(b)
	network := ident.New()
	req := &namedpb.DeclareRequest{Networks: []*namedpb.Network{manyNames(network, 10000)}}
	wanted := map[string]hand.In{}
	for range 8 {
		task := ident.New()
		wanted[task] = newNetns(b)
		req.Sandboxes = append(req.Sandboxes, &namedpb.Sandbox{TaskId: task, NetworkIds: []string{network}})
	}
	n.declare(req)
	h.Keep(wanted)
	var conns []net.Conn
	for task, in := range wanted {
		eventually(b, "sockets", func() bool { return h.Err(task) == nil })
		if err := in(func() error {
			c, err := net.Dial("udp", "127.0.0.11:53")
			conns = append(conns, c)
			return err
		}); err != nil {
			b.Fatal(err)
		}
	}
	var queries [][]byte
	for i := range 10000 {
		q, err := new(dns.Msg).SetQuestion(fmt.Sprintf("service-%d.", i), dns.TypeA).Pack()
		if err != nil {
			b.Fatal(err)
		}
		queries = append(queries, q)
	}
	took := make([][]time.Duration, len(conns))
	b.ResetTimer()
	var all sync.WaitGroup
	for k, c := range conns {
		all.Go(func() {
			defer c.Close()
			buf := make([]byte, 512)
			for i := k; i < b.N; i += len(conns) {
				began := time.Now()
				c.SetDeadline(began.Add(deadline))
				if _, err := c.Write(queries[i%len(queries)]); err != nil {
					b.Error(err)
					return
				}
				if _, err := c.Read(buf); err != nil || buf[3]&15 != 0 || buf[7] != 1 {
					b.Errorf("%v %x", err, buf[:12])
					return
				}
				took[k] = append(took[k], time.Since(began))
			}
		})
	}
	all.Wait()
	b.StopTimer()
	flat := slices.Concat(took...)
	slices.Sort(flat)
	if len(flat) > 0 {
		b.ReportMetric(float64(len(flat))/b.Elapsed().Seconds(), "queries/s")
		b.ReportMetric(float64(flat[len(flat)/2].Microseconds()), "p50-µs")
		b.ReportMetric(float64(flat[len(flat)*99/100].Microseconds()), "p99-µs")
	}
}
