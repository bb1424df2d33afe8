package raftstore_test

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
)

// cutter hands connections on to a server and ends each after so many bytes
// towards it: the first number for the first connection that carries that much,
// and so on; then it cuts no more.
type cutter struct {
	net.Listener
	to string

	mu    sync.Mutex // guards the next three
	cuts  []int64
	done  int // cuts made
	conns []net.Conn
	wg    sync.WaitGroup
}

func newCutter(t *testing.T, to string, cuts []int64) *cutter {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{Listener: ln, to: to, cuts: cuts}
	c.wg.Go(c.serve)
	t.Cleanup(func() {
		ln.Close()
		c.mu.Lock()
		for _, conn := range c.conns {
			conn.Close()
		}
		c.mu.Unlock()
		c.wg.Wait()
	})
	return c
}

func (c *cutter) serve() {
	for {
		in, err := c.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", c.to)
		if err != nil {
			in.Close()
			continue
		}
		c.mu.Lock()
		c.conns = append(c.conns, in, out)
		c.mu.Unlock()
		c.wg.Go(func() { io.Copy(in, out); in.Close() })
		c.wg.Go(func() {
			defer in.Close()
			defer out.Close()
			if limit := c.limit(); limit > 0 {
				if n, _ := io.CopyN(out, in, limit); n == limit {
					c.cutMade(limit)
					return
				}
				return
			}
			io.Copy(out, in)
		})
	}
}

// limit is where the connection that begins now is cut; 0 for nowhere.
func (c *cutter) limit() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done < len(c.cuts) {
		return c.cuts[c.done]
	}
	return 0
}

func (c *cutter) cutMade(limit int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done < len(c.cuts) && c.cuts[c.done] == limit {
		c.done++
	}
}

func (c *cutter) made() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done
}

// TestSnapshotCutWhileItIsSent: a leader's snapshot ends in the middle and at the
// edge of each of its chunks. The follower holds nothing of it, or all, and the
// try after the last cut brings it whole.
func TestSnapshotCutWhileItIsSent(t *testing.T) {
	const chunk, chunks = 64 << 10, 4
	ctx := waitContext(t)
	a := newMember(t, "a")
	a.bootstrap(t)
	const objects = 6
	for i := range objects {
		put(t, a.Store, &testpb.Thing{Id: fmt.Sprint(i), Payload: make([]byte, 50<<10)})
	}
	if err := a.Snapshot(ctx); err != nil {
		t.Fatal(err)
	}
	b := newMember(t, "b", "a")
	var cuts []int64
	for i := range int64(chunks) {
		cuts = append(cuts, i*chunk+chunk/2, (i+1)*chunk)
	}
	between := newCutter(t, b.hostport(), cuts)
	w, err := b.Watch(nil, things)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.AddNonvoter(ctx, b.id, between.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Next(ctx); err == nil { // the first thing that is to be seen is another state
		t.Error("the follower applied something else than a snapshot")
	}
	if got := between.made(); got != len(cuts) {
		t.Errorf("a snapshot was taken after %d of %d cuts", got, len(cuts))
	}
	if err := b.View(func(r *raftstore.ReadTx) error {
		if n := things.Count(r); n != objects {
			return fmt.Errorf("%d objects, want %d", n, objects)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	put(t, a.Store, &testpb.Thing{Id: "last"})
	waitFor(t, b, "last")
}
