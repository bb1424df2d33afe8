package peer

import (
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/peer/peerpb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// overTCP starts the node anew, on loopback.
func (x *node) overTCP(heard func(node, network string, tasks map[string]bool)) {
	x.w.t.Helper()
	x.stop()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		x.w.t.Fatal(err)
	}
	x.address = l.Addr().String()
	x.start(func(o *Options) {
		o.Listener, o.dial, o.Logger, o.Heard = l, nil, slog.New(slog.DiscardHandler), heard
	})
}

// BenchmarkTell is from Tell on one of 51 nodes to Heard on the last of the other 50,
// all in this process, each with a connection to each over loopback.
func BenchmarkTell(b *testing.B) {
	w := newWorld(b, 51)
	var left sync.WaitGroup
	origin := w.nodes[25]
	for _, x := range w.nodes {
		x.overTCP(func(node, _ string, tasks map[string]bool) {
			if node == origin.id() && len(tasks) > 0 {
				left.Done()
			}
		})
	}
	n, task := ident.New(), ident.New()
	w.know(w.nodes...)
	for since := time.Now(); slices.ContainsFunc(w.nodes, func(x *node) bool { return x.open() < len(w.nodes)-1 }); {
		if time.Since(since) > 5*time.Minute {
			b.Fatal("they do not all meet")
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.share(n, w.nodes...)
	var took []time.Duration
	serving := false
	for b.Loop() {
		b.StopTimer()
		time.Sleep(2 * sayAgain) // of a benchmark: changes are further apart than that
		b.StartTimer()
		serving = !serving
		left.Add(len(w.nodes) - 1)
		began := time.Now()
		origin.Tell(n, map[string]bool{task: serving})
		left.Wait()
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-median")
	b.ReportMetric(float64(took[0].Microseconds()), "µs-least")
	b.ReportMetric(float64(took[len(took)-1].Microseconds()), "µs-most")
	s := origin.State().Statements
	b.ReportMetric(float64(s.Told)/float64(b.N), "told/op")
	b.ReportMetric(float64(s.Swept)/float64(b.N), "swept/op")
	for _, x := range w.nodes {
		x.stop()
	}
}

// BenchmarkFiveHundred is a node with 500 peers on one network: processor time of this
// process, which has both ends, for a change of its own that all hear, and for one
// change of each of them; and what all that it knows of them occupies.
func BenchmarkFiveHundred(b *testing.B) {
	const peers = 500
	w := newWorld(b, 1)
	hub := w.nodes[0]
	heard := make(chan struct{}, peers)
	hub.overTCP(func(_, _ string, tasks map[string]bool) {
		if len(tasks) > 0 {
			heard <- struct{}{}
		}
	})
	var views []View
	ids := []string{hub.id()}
	var creds []*node
	for i := range peers {
		c := &node{w: w, creds: w.ca.NewNode(b, profilepb.Role_ROLE_WORKER).Credentials}
		a := hub.mesh().As4()
		a[2], a[3] = byte(1+i/200), byte(1+i%200)
		views = append(views, View{ID: c.id(), Mesh: addr(a)})
		creds, ids = append(creds, c), append(ids, c.id())
	}
	if err := hub.Set(hub.mesh_(15), views); err != nil {
		b.Fatal(err)
	}
	n, task := ident.New(), ident.New()
	hub.Share(n, ids)
	before := occupied()
	var told sync.WaitGroup
	var reading sync.WaitGroup
	var rogues []*rogue
	for _, c := range creds {
		r, err := w.rogueTCP(hub, c.creds)
		if err != nil {
			b.Fatal(err)
		}
		rogues = append(rogues, r)
		mine := freshKey()
		r.say(r.x.tell(announcement{keys: keys{current: mine}, port: 1}, time.Now())...)
		reading.Go(func() {
			for {
				f, err := r.next()
				if err != nil {
					return
				}
				switch m := f.GetMessage().(type) {
				case *peerpb.Frame_Announce:
				case *peerpb.Frame_Prove:
					r.prove(mine, mine)
				case *peerpb.Frame_Said:
					for range m.Said.Pass { // to whom it would be passed, and who would confirm it
						told.Done()
					}
					told.Done()
				default:
					out, _, _ := r.x.hear(f, time.Now())
					r.say(out...)
				}
				out, _, _ := r.x.act(time.Now())
				r.say(out...)
			}
		})
	}
	until(b, "all of them", func() bool { return hub.netd.count() == peers })
	occupies := float64(occupied()-before) / peers
	hub.mu.Lock()
	hub.o.direct = peers // nobody relays here: it tells each itself
	hub.mu.Unlock()
	var own, theirs time.Duration
	boot, sequence := uint64(1), uint64(0)
	serving := false
	for b.Loop() {
		serving = !serving
		told.Add(peers)
		cpu := processor()
		hub.Tell(n, map[string]bool{task: serving})
		told.Wait()
		own += processor() - cpu
		sequence++
		cpu = processor()
		for _, r := range rogues {
			s := &statement{n, number{boot, sequence}, time.Now(), map[string]bool{task: serving}}
			r.say(s.said(b, r.creds, r.creds.Identity().NodeID, ""))
		}
		for range peers {
			<-heard
		}
		theirs += processor() - cpu
		b.StopTimer()
		time.Sleep(2 * sayAgain)
		b.StartTimer()
	}
	b.ReportMetric(occupies, "B/peer")
	b.ReportMetric(float64(own.Microseconds())/float64(b.N), "µs-cpu/told-500")
	b.ReportMetric(float64(theirs.Microseconds())/float64(b.N), "µs-cpu/heard-500")
	for _, r := range rogues {
		r.conn.Close()
	}
	reading.Wait()
	hub.stop()
}

func processor() time.Duration {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
