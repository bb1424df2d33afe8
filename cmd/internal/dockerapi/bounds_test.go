package dockerapi

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// alone is a gateway whose node answers nobody, and a caller of it.
func alone(t testing.TB) (*Server, *caller) {
	t.Helper()
	s := New(Config{
		Self:      func() Self { return Self{Phase: controlpb.NodePhase_NODE_PHASE_ACTIVE, Manager: true} },
		Recipient: func(context.Context) (*apiclient.Recipient, error) { return nil, errors.New("no keyd") },
		Log:       slog.New(slog.DiscardHandler),
	})
	api, err := apiclient.Over(func(context.Context) (net.Conn, error) { return nil, errors.New("nobody") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { api.Close() })
	return s, &caller{api: api}
}

// oneConn is a listener of one connection.
type oneConn struct {
	conn chan net.Conn
	done chan struct{}
}

func (l oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l oneConn) Close() error   { return nil }
func (l oneConn) Addr() net.Addr { return &net.UnixAddr{} }

// TestSlowBody: who sends a head and never its body is answered when that has taken too
// long, and keeps no place.
func TestSlowBody(t *testing.T) {
	s, _ := alone(t)
	synctest.Test(t, func(t *testing.T) {
		far, near := net.Pipe()
		l := oneConn{make(chan net.Conn, 1), make(chan struct{})}
		l.conn <- far
		srv := &http.Server{Handler: s, ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, callerKey{}, &caller{})
		}}
		served := make(chan struct{})
		go func() { defer close(served); srv.Serve(l) }()
		begun := time.Now()
		if _, err := near.Write([]byte("POST /services/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(near).ReadString('\n')
		if err != nil || !strings.Contains(line, " 408 ") || time.Since(begun) != bodyPatience {
			t.Errorf("%q, %v after %v", line, err, time.Since(begun))
		}
		near.Close()
		close(l.done)
		srv.Close()
		<-served
	})
}

// unread fails whoever reads it.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("it is read")
	return 0, errors.New("read")
}

// TestUnlockIsNotRead: nothing is taken of a request that brings an unlock key.
func TestUnlockIsNotRead(t *testing.T) {
	s, who := alone(t)
	for _, phase := range []controlpb.NodePhase{controlpb.NodePhase_NODE_PHASE_LOCKED, controlpb.NodePhase_NODE_PHASE_ACTIVE} {
		s.c.Self = func() Self { return Self{Phase: phase, Manager: true} }
		req := httptest.NewRequest("POST", "/v1.50/swarm/unlock", unread{t})
		w := httptest.NewRecorder()
		s.ServeHTTP(w, req.WithContext(context.WithValue(t.Context(), callerKey{}, who)))
		if w.Code < 400 || w.Header().Get("Connection") != "close" || phase == controlpb.NodePhase_NODE_PHASE_LOCKED && !strings.Contains(w.Body.String(), "redoubt unlock") {
			t.Errorf("%v: %d %s", phase, w.Code, w.Body)
		}
	}
}

// TestOnce: what was made for a user is that user's, is taken once, and is gone after a
// minute; so many are kept and no more.
func TestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o once
		key := []byte("key")
		o.keep(0, "a", key)
		if o.take(1, "a") != nil || o.take(0, "b") != nil {
			t.Error("another's is given out")
		}
		if string(o.look(0, "a")) != "key" || string(o.take(0, "a")) != "key" || o.take(0, "a") != nil || o.look(0, "a") != nil {
			t.Error("it is not taken once")
		}
		if string(key) != "\x00\x00\x00" {
			t.Errorf("it is not wiped: %q", key)
		}
		key = []byte("key")
		o.keep(0, "a", key)
		time.Sleep(onceFor)
		synctest.Wait()
		if o.take(0, "a") != nil || string(key) != "\x00\x00\x00" {
			t.Error("it is there after its time")
		}
		for uid := range uint32(3 * maxOnce) {
			o.keep(uid, "a", []byte("key"))
		}
		if len(o.kept) != maxOnce {
			t.Errorf("%d are kept", len(o.kept))
		}
		o.wipe()
		if len(o.kept) != 0 {
			t.Error("they are not forgotten")
		}
	})
}

// FuzzRequest: whatever is asked for is answered: with no panic, and in Docker's form
// where it is refused.
func FuzzRequest(f *testing.F) {
	for _, rt := range routes {
		method, path, _ := strings.Cut(rt.pattern, " ")
		f.Add(method, strings.NewReplacer("{id}", "x", "{name...}", "a/b:1/json").Replace(path)+"?version=1", webSpec)
		f.Add(method, "/v1.44"+path, `{"Name":"x","Data":"eA==","Labels":{}}`)
	}
	f.Add("GET", `/events?since=1&filters={"type":["service"]}`, "")
	f.Add("POST", "/swarm/update?version=3&rotateWorkerToken=1", `{"Name":"default","EncryptionConfig":{"AutoLockManagers":true}}`)
	f.Add("POST", "/networks/create", `{"Name":"a","IPAM":{"Config":[{"Subnet":"10.0.0.0/8"}]}}`)
	f.Add("POST", "/swarm/init", `{"DefaultAddrPool":["10.0.0.0/8"],"AutoLockManagers":true}`)
	f.Add("POST", "/nodes/x/update?version=1", `{"Role":"worker","Availability":"drain"}`)
	s, who := alone(f)
	f.Fuzz(func(t *testing.T, method, path, body string) {
		req, err := http.NewRequest(method, "http://d", strings.NewReader(body))
		if err != nil {
			return
		}
		u, err := req.URL.Parse(path)
		if err != nil {
			return
		}
		req.URL = u
		req.Header.Set("Content-Type", "application/json")
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), callerKey{}, who), 200*time.Millisecond)
		defer cancel()
		w := httptest.NewRecorder()
		s.ServeHTTP(w, req.WithContext(ctx))
		if w.Code >= 400 && !strings.Contains(w.Body.String(), `"message":`) {
			t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
	})
}
