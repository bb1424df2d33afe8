package fasttap

import (
	"flag"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	rounds  = flag.Int("fasttap.rounds", 5, "rounds of the benchmark")
	lasting = flag.Duration("fasttap.time", time.Second, "how long each measurement of the benchmark takes")
)

// flow carries data for a while, and returns megabytes a second and the
// processor time of a gigabyte: of both ends, senders and receivers included.
func flow(b *testing.B, from, to, address string) (mbps, perGB float64) {
	client, server := dial(b, from, to, address)
	received := make(chan int64)
	go func() {
		n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{server}, make([]byte, 256<<10))
		received <- n
	}()
	before, start := processorTime(b), time.Now()
	chunk := make([]byte, 256<<10)
	for time.Since(start) < *lasting {
		if _, err := client.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	client.Close()
	n := float64(<-received)
	return n / 1e6 / time.Since(start).Seconds(), (processorTime(b) - before).Seconds() / n * 1e9
}

func processorTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkOverlay measures in turn: host to host over stock wireguard-go, and
// sandbox to sandbox over VXLAN through each kind of interface. Its ratios are
// of medians, to host to host.
func BenchmarkOverlay(b *testing.B) {
	kinds := []struct {
		name string
		end  end
		host bool
	}{
		{"host to host, stock", end{Stock, false}, true},
		{"overlay, stock", end{Stock, false}, false},
		{"overlay, batch", end{Batch, false}, false},
		{"overlay, tunnel-gso", end{TunnelGSO, false}, false},
		{"overlay, tunnel-gso, own bind", end{TunnelGSO, true}, false},
	}
	speed, cost := make([][]float64, len(kinds)), make([][]float64, len(kinds))
	for range *rounds {
		for i, k := range kinds {
			b.Run(k.name, func(b *testing.B) { // a world each, gone afterwards
				w := newWorld(b, k.end, k.end, 1420)
				from, to, address := w[0].box, w[1].box, "10.77.2.2"
				if k.host {
					from, to, address = w[0].node, w[1].node, "198.18.0.2"
				}
				for b.Loop() {
					mbps, perGB := flow(b, from, to, address)
					speed[i], cost[i] = append(speed[i], mbps), append(cost[i], perGB)
					b.ReportMetric(mbps, "MB/s")
					b.ReportMetric(perGB, "CPU-s/GB")
				}
			})
		}
	}
	for i, k := range kinds {
		slices.Sort(speed[i])
		slices.Sort(cost[i])
		s, c := speed[i], cost[i]
		n := len(s)
		fmt.Printf("%-30s n %d  %5.0f MB/s (%.0f to %.0f)  ratio %.2f   %.2f CPU-s/GB (%.2f to %.2f)  ratio %.2f\n", k.name, n,
			s[n/2], s[0], s[n-1], s[n/2]/speed[0][len(speed[0])/2], c[n/2], c[0], c[n-1], c[n/2]/cost[0][len(cost[0])/2])
	}
}
