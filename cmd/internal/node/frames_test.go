package node

import (
	"bytes"
	"encoding/binary"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// rawCall is an h2 connection on which a test writes the frames itself.
type rawCall struct {
	io.WriteCloser
	*http2.Framer
	next uint32
}

func (w *callerWorld) raw(t *testing.T, creds *pki.Credentials) *rawCall {
	t.Helper()
	conn, err := pki.DialTLS(t.Context(), w.addr, creds.ClientConfig(pki.ALPNGRPC, ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(conn, http2.ClientPreface)
	c := &rawCall{conn, http2.NewFramer(conn, conn), 1}
	if err := c.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

// begin opens a call, with extra headers, and returns its stream.
func (c *rawCall) begin(method string, extra ...hpack.HeaderField) (uint32, error) {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	for _, f := range append([]hpack.HeaderField{{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "https"}, {Name: ":path", Value: method},
		{Name: ":authority", Value: "x"}, {Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"}}, extra...) {
		enc.WriteField(f)
	}
	id := c.next
	c.next += 2
	block, first := b.Bytes(), true
	for {
		part := block[:min(len(block), 16<<10)]
		block = block[len(part):]
		var err error
		if first {
			err = c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: part, EndHeaders: len(block) == 0})
		} else {
			err = c.WriteContinuation(id, len(block) == 0, part)
		}
		if first = false; err != nil || len(block) == 0 {
			return id, err
		}
	}
}

// ends reads until the stream or the connection is over.
func (c *rawCall) ends(id uint32) bool {
	for {
		f, err := c.ReadFrame()
		if err != nil {
			return !strings.Contains(err.Error(), "timeout")
		}
		if f.Header().StreamID == id && (f.Header().Type == http2.FrameRSTStream || f.Header().Flags.Has(http2.FlagHeadersEndStream)) ||
			f.Header().Type == http2.FrameGoAway {
			return true
		}
	}
}

// TestHostileFrames: what a member gone bad can do with the frames of its
// connection costs bounded memory and disturbs no other caller.
func TestHostileFrames(t *testing.T) {
	w := newCallerWorld(t)
	mole, other := w.put(t, w.ca.NewNode(t, profilepb.Role_ROLE_WORKER)), w.put(t, w.ca.NewNode(t, profilepb.Role_ROLE_WORKER))
	const renew, session = "/redoubt.pki.v1.Renew/Renew", "/redoubt.scheduler.v1.Dispatcher/Session"
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	prefix := func(n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{0}, n) }

	t.Run("a message of 1 GiB", func(t *testing.T) {
		for _, method := range []string{renew, session} {
			c := w.raw(t, mole.Credentials)
			id, err := c.begin(method)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.WriteData(id, false, append(prefix(1<<30), make([]byte, 1000)...)); err != nil {
				t.Fatal(err)
			}
			if !c.ends(id) {
				t.Errorf("%s waits for it", method)
			}
		}
	})
	t.Run("headers without end", func(t *testing.T) {
		c := w.raw(t, mole.Credentials)
		id, err := c.begin(renew, hpack.HeaderField{Name: "x", Value: strings.Repeat("y", 1<<20)})
		if err == nil && !c.ends(id) {
			t.Error("1 MiB of headers is taken")
		}
		c = w.raw(t, mole.Credentials)
		c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}})
		for range 100000 { // 100,000 empty CONTINUATION frames
			if err = c.WriteContinuation(1, false, nil); err != nil {
				break
			}
		}
		// They hold nothing, so they may wait; it is a connection of its own.
		if grown := heap() - before; grown > 16<<20 {
			t.Errorf("headers without end hold %d KiB", grown>>10)
		}
	})
	t.Run("frames that are none", func(t *testing.T) {
		for _, b := range [][]byte{
			{0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1}, // 16 MiB of DATA
			bytes.Repeat([]byte{0}, 9*1000),      // DATA on stream 0
			{0, 0, 1, 4, 0, 0, 0, 0, 0, 9},       // SETTINGS of one byte
		} {
			c := w.raw(t, mole.Credentials)
			c.WriteCloser.Write(b)
			if !c.ends(1) {
				t.Errorf("% x is taken", b[:9])
			}
		}
	})
	t.Run("slow callers", func(t *testing.T) {
		// Each of 200 calls has said that 1 MiB comes, and sends a byte.
		var wg sync.WaitGroup
		t.Cleanup(wg.Wait)
		for range 4 {
			c := w.raw(t, mole.Credentials)
			wg.Go(func() { io.Copy(io.Discard, connOf{c}) })
			for range 50 {
				id, err := c.begin(session)
				if err == nil {
					err = c.WriteData(id, false, append(prefix(1<<20), 0))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			t.Cleanup(func() { c.Close() })
		}
		conn, err := pki.DialTLS(t.Context(), w.addr, other.ClientConfig(pki.ALPNGRPC, ""))
		if err != nil {
			t.Fatal(err)
		}
		cc, err := pki.GRPCOver(conn)
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		start := time.Now()
		if _, err := pkipb.NewRenewClient(cc).Renew(t.Context(), &pkipb.RenewRequest{}); outcomeOf(renew, err) != reached {
			t.Errorf("another worker gets %v", err)
		}
		grown := heap() - before
		t.Logf("200 slow calls: %d KiB, another caller is answered in %v", grown>>10, time.Since(start).Round(time.Millisecond))
		if grown > 64<<20 {
			t.Error("that is too much")
		}
	})
}

// connOf reads what the other side sends, to nowhere.
type connOf struct{ c *rawCall }

func (r connOf) Read(b []byte) (int, error) {
	f, err := r.c.ReadFrame()
	if err != nil {
		return 0, io.EOF
	}
	_ = f
	return 0, nil
}
