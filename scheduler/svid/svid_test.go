package svid

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// certificate is the document of that kind.
type certificate = profilepb.WorkloadDocument_Certificate

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// Two services speak over mTLS with what the reference client gets for them, and
// go on while both certificates are replaced.
func TestServicesWithRotation(t *testing.T) {
	w, ctx := newWorld(t, 6*time.Second), within(t)
	web, db := ident.New(), ident.New()
	w.Set(map[string]Want{web: {Identity: w.id("web"), Life: time.Hour}, db: {Identity: w.id("db"), Life: time.Hour}})
	// The bundles are another source's: X509Source reads its own without its lock
	// (go-spiffe 2.8.1).
	source := func(task string) (*workloadapi.X509Source, *workloadapi.BundleSource) {
		at := workloadapi.WithClientOptions(workloadapi.WithAddr(w.socket(task)))
		s, err1 := workloadapi.NewX509Source(ctx, at)
		b, err2 := workloadapi.NewBundleSource(ctx, at)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close(); b.Close() })
		return s, b
	}
	client, clients := source(web)
	server, servers := source(db)
	first, err := client.GetX509SVID()
	if err != nil || first.ID.String() != w.id("web") {
		t.Fatalf("%v, %v", first, err)
	}
	allow := func(service string) tlsconfig.Authorizer {
		return tlsconfig.AuthorizeID(spiffeid.RequireFromString(w.id(service)))
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", tlsconfig.MTLSServerConfig(server, servers, allow("web")))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { defer c.Close(); io.Copy(c, c) })
		}
	})
	defer serving.Wait()
	defer l.Close()
	say := func(c *tls.Conn) error {
		c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(c, "ping\n"); err != nil {
			return err
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		if err == nil && line != "ping\n" {
			err = errors.New(line)
		}
		return err
	}
	dial := func(peer string) (*tls.Conn, error) {
		c, err := tls.Dial("tcp", l.Addr().String(), tlsconfig.MTLSClientConfig(client, clients, allow(peer)))
		if err != nil {
			return nil, err
		}
		return c, say(c)
	}
	long, err := dial("db")
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	if c, err := dial("web"); err == nil {
		c.Close()
		t.Error("a server passed for another service")
	}
	for again := first; again.Certificates[0].SerialNumber.Cmp(first.Certificates[0].SerialNumber) == 0; {
		select {
		case <-client.Updated():
		case <-ctx.Done():
			t.Fatal("nothing was renewed")
		}
		if again, err = client.GetX509SVID(); err != nil {
			t.Fatal(err)
		}
	}
	if err := say(long); err != nil {
		t.Errorf("the connection from before: %v", err)
	}
	fresh, err := dial("db")
	if err != nil {
		t.Fatalf("a connection after it: %v", err)
	}
	fresh.Close()
}

func TestTokens(t *testing.T) {
	w, ctx := newWorld(t, 0), within(t)
	task := ident.New()
	w.Set(map[string]Want{task: {Identity: w.id("web"), Life: time.Hour}})
	api, err := workloadapi.New(ctx, workloadapi.WithAddr(w.socket(task)))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	got, err := api.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "db", ExtraAudiences: []string{"cache"}})
	if err != nil || got.ID.String() != w.id("web") {
		t.Fatalf("%v, %v", got, err)
	}
	bundles, err := api.FetchJWTBundles(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jwtsvid.ParseAndValidate(got.Marshal(), bundles, []string{"db"}); err != nil {
		t.Error(err)
	}
	again, err := api.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "cache", ExtraAudiences: []string{"db"}})
	if err != nil || again.Marshal() != got.Marshal() {
		t.Errorf("the same token is asked for again: %v", err)
	}
	if v, err := api.ValidateJWTSVID(ctx, got.Marshal(), "db"); err != nil || v.ID != got.ID {
		t.Errorf("%v, %v", v, err)
	}
	if _, err := api.ValidateJWTSVID(ctx, got.Marshal(), "other"); err == nil {
		t.Error("a token passes for another audience")
	}
	text := []byte(got.Marshal())
	text[len(text)-5] ^= 1
	if _, err := api.ValidateJWTSVID(ctx, string(text), "db"); err == nil {
		t.Error("a changed token passes")
	}
}

// What was revoked is gone at once: streams end, nothing is handed out, nothing is
// asked for; and it comes back when it is allowed again.
func TestRevoked(t *testing.T) {
	w, ctx := newWorld(t, 0), within(t)
	task := ident.New()
	w.Set(map[string]Want{task: {Identity: w.id("web"), Life: time.Hour}})
	c := w.raw(t, task)
	stream, err := workload.NewSpiffeWorkloadAPIClient(c).FetchX509SVID(secure(ctx), &workload.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	w.set(func() { w.denied[w.id("web")] = true })
	if _, err := stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the stream of a revoked identity: %v", err)
	}
	if _, err := workload.NewSpiffeWorkloadAPIClient(c).FetchJWTSVID(secure(ctx), &workload.JWTSVIDRequest{Audience: []string{"x"}}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a token of a revoked identity: %v", err)
	}
	w.Holder.mu.Lock()
	if e := w.tasks[task]; e.key != nil {
		t.Error("its key is kept")
	}
	w.Holder.mu.Unlock()
	w.set(func() { delete(w.denied, w.id("web")) })
	for { // until the holder has heard
		stream, err = workload.NewSpiffeWorkloadAPIClient(c).FetchX509SVID(secure(ctx), &workload.X509SVIDRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if err == nil {
			return
		}
		if status.Code(err) != codes.PermissionDenied {
			t.Fatal(err)
		}
	}
}

// What was revoked is gone at once also while managers are being waited for.
func TestRevokedWhileManagersHang(t *testing.T) {
	w, ctx := newWorld(t, 0), within(t)
	var hang, over atomic.Bool
	asked := make(chan struct{})
	w.Holder.c.Issue = func(ctx context.Context, req *schedulerpb.IssueRequest) (*schedulerpb.IssueResponse, error) {
		if !hang.Load() {
			return w.answer(ctx, req)
		}
		select {
		case asked <- struct{}{}:
		case <-ctx.Done():
		}
		<-ctx.Done()
		over.Store(true)
		return nil, ctx.Err()
	}
	task, more := ident.New(), ident.New()
	want := map[string]Want{task: {Identity: w.id("web"), Life: time.Hour}}
	w.Set(want)
	stream, err := workload.NewSpiffeWorkloadAPIClient(w.raw(t, task)).FetchX509SVID(secure(ctx), &workload.X509SVIDRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	hang.Store(true)
	want[more] = Want{Identity: w.id("db"), Life: time.Hour}
	w.Set(want)
	<-asked
	w.set(func() { w.denied[w.id("web")] = true })
	if _, err := stream.Recv(); status.Code(err) != codes.PermissionDenied || over.Load() {
		t.Errorf("it ended with %v; managers were waited for first: %t", err, over.Load())
	}
}

// An answer that does not end in this node's roots, or is for another key or
// identity, is not believed.
func TestLies(t *testing.T) {
	other := newWorld(t, 0)
	for name, lie := range map[string]func(w *world) func(*schedulerpb.IssueResponse){
		"another root": func(*world) func(*schedulerpb.IssueResponse) {
			return func(r *schedulerpb.IssueResponse) {
				r.Issuer.Certificates = [][]byte{other.ca.Raw, other.root.Raw}
			}
		},
		"no documents": func(*world) func(*schedulerpb.IssueResponse) {
			return func(r *schedulerpb.IssueResponse) { r.Documents = nil }
		},
		"another bundle": func(*world) func(*schedulerpb.IssueResponse) {
			return func(r *schedulerpb.IssueResponse) { r.Bundle.Bundle[5] ^= 1 }
		},
		"a CA for a leaf": func(w *world) func(*schedulerpb.IssueResponse) {
			return func(r *schedulerpb.IssueResponse) { r.Documents[0].Document.(*certificate).Certificate = w.ca.Raw }
		},
	} {
		w := newWorld(t, 0)
		w.lie = lie(w)
		task := ident.New()
		w.Set(map[string]Want{task: {Identity: w.id("web"), Life: time.Hour}})
		deadline := time.Now().Add(20 * time.Second)
		for {
			w.Holder.mu.Lock()
			e := w.tasks[task]
			key, why, changed := e.key, e.why, e.retry > 0
			w.Holder.mu.Unlock()
			if key != nil {
				t.Fatalf("%s: it was believed", name)
			}
			if changed && why != "" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: nothing happened", name)
			}
			<-time.After(time.Millisecond)
		}
	}
}

// Where all is refused nothing but the reasons comes, and those are told.
func TestAllRefused(t *testing.T) {
	w, ctx := newWorld(t, 0), within(t)
	w.lie = func(r *schedulerpb.IssueResponse) {
		for i := range r.Documents {
			r.Documents[i] = &profilepb.WorkloadDocument{Document: &profilepb.WorkloadDocument_Error{Error: "it was revoked"}}
		}
		r.Issuer, r.Bundle = nil, nil
	}
	task := ident.New()
	w.Set(map[string]Want{task: {Identity: w.id("web"), Life: time.Hour}})
	_, err := workload.NewSpiffeWorkloadAPIClient(w.raw(t, task)).FetchJWTSVID(secure(ctx), &workload.JWTSVIDRequest{Audience: []string{"x"}})
	if err == nil || !strings.Contains(err.Error(), "it was revoked") {
		t.Errorf("a token: %v", err)
	}
	for {
		w.Holder.mu.Lock()
		e := w.tasks[task]
		key, why := e.key, e.why
		w.Holder.mu.Unlock()
		if why == "it was revoked" && key == nil {
			return
		}
		if key != nil || ctx.Err() != nil {
			t.Fatalf("it has %v, and says %q", key, why)
		}
		<-time.After(time.Millisecond)
	}
}
