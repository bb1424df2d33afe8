package keydclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve answers every request on every connection with what answer returns;
// nil closes the connection.
func serve(t *testing.T, answer func(*keydpb.Request) *keydpb.Response) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				for {
					req := new(keydpb.Request)
					if wire.Read(conn, req) != nil {
						return
					}
					resp := answer(req)
					if resp == nil || wire.Write(conn, resp) != nil {
						return
					}
				}
			})
		}
	})
	return path
}

func status() *keydpb.Response {
	return &keydpb.Response{Result: &keydpb.Response_Status{Status: &keydpb.StatusResponse{ClusterId: "c"}}}
}

func TestRefusalsCarryTheirCode(t *testing.T) {
	c := New(serve(t, func(*keydpb.Request) *keydpb.Response {
		return &keydpb.Response{Result: &keydpb.Response_Error{Error: &keydpb.Error{Code: keydpb.Code_CODE_LOCKED, Message: "locked: unlock it"}}}
	}))
	defer c.Close()
	_, err := c.OpenStore(t.Context(), &keydpb.OpenStoreRequest{})
	if CodeOf(fmt.Errorf("wrapped: %w", err)) != keydpb.Code_CODE_LOCKED || err.Error() != "locked: unlock it" {
		t.Error(err)
	}
	for _, err := range []error{c.Forget(t.Context()), c.WaitUnlocked(t.Context())} {
		if CodeOf(err) != keydpb.Code_CODE_LOCKED {
			t.Error(err)
		}
	}
	if CodeOf(errors.New("x")) != keydpb.Code_CODE_UNSPECIFIED || CodeOf(nil) != keydpb.Code_CODE_UNSPECIFIED {
		t.Error("an error that is no refusal has a code")
	}
}

func TestAnswersToOtherQuestionsAreErrors(t *testing.T) {
	c := New(serve(t, func(*keydpb.Request) *keydpb.Response { return status() }))
	defer c.Close()
	if st, err := c.Status(t.Context()); err != nil || st.ClusterId != "c" {
		t.Fatal(st, err)
	}
	if resp, err := c.OpenStore(t.Context(), &keydpb.OpenStoreRequest{}); !errors.Is(err, errUnexpected) || resp != nil {
		t.Error(resp, err)
	}
	if key, err := c.PrepareJoin(t.Context()); !errors.Is(err, errUnexpected) || key != nil {
		t.Error(key, err)
	}
	if err := c.WaitUnlocked(t.Context()); !errors.Is(err, errUnexpected) {
		t.Error(err)
	}
}

func TestCallsEndWithTheirContext(t *testing.T) {
	release := make(chan struct{})
	c := New(serve(t, func(*keydpb.Request) *keydpb.Response { <-release; return nil }))
	defer c.Close()
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Status(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if err := c.WaitUnlocked(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if _, err := c.Watch(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestAKeydThatIsNotThere(t *testing.T) {
	c := New(filepath.Join(t.TempDir(), "none"))
	defer c.Close()
	if _, err := c.Status(t.Context()); err == nil || CodeOf(err) != keydpb.Code_CODE_UNSPECIFIED {
		t.Error(err)
	}
	if _, err := c.Watch(t.Context()); err == nil {
		t.Error("a watch on nothing")
	}
}
