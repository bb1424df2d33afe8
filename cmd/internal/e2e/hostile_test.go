package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// TestHostileNetwork attacks port 2377 of two managers, one of which only
// follows, with what an attacker on the network, a thief of a token and a
// worker gone bad have.
func TestHostileNetwork(t *testing.T) {
	c := up(t, "wire", 2, 1)
	leader := c.leader("manager-1")
	follower := "manager-1"
	if leader == follower {
		follower = "manager-2"
	}
	a := &attack{cluster: c, leader: c.addr2377(leader), follower: c.addr2377(follower), from: leader}
	for _, story := range []struct {
		name string
		tell func(*testing.T, *attack)
	}{
		{"TestForeignCallers", foreignCallers},
		{"TestCapturedJoinIsWorthless", capturedJoin},
		{"TestTokensRace", tokensRace},
		{"TestHostileWorkerStopsNobody", hostileWorker},
		{"TestSilentConnectionsShutNobodyOut", silentConnections},
		{"TestRenewals", renewals},
		{"TestRemovedWorkerIsRefusedAtOnce", removedWorker},
	} {
		t.Run(story.name, func(t *testing.T) {
			sub, sc := *a, *c
			sub.cluster, sc.t = &sc, t
			story.tell(t, &sub)
		})
	}
	// Whatever was tried, nothing stopped or restarted.
	for _, n := range c.nodes(leader) {
		if n.Hostname == leader && !n.Leader {
			t.Errorf("%s does not lead any more", leader)
		}
	}
	c.ok(follower, "node", "ls")
}

type attack struct {
	*cluster
	leader, follower string // host:port
	from             string // the host on which the operator works
}

func (c *cluster) addr2377(name string) string {
	return net.JoinHostPort(c.host(name).Address, "2377")
}

// token makes a join token.
func (a *attack) token(t *testing.T, role string, flags ...string) pki.Token {
	t.Helper()
	text := a.ok(a.from, append([]string{"join-token", role, "-q"}, flags...)...)
	tok, err := pki.ParseToken(strings.TrimSpace(text))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// uses is how often a token was used, as the operator sees it.
func (a *attack) uses(t *testing.T, tok pki.Token) string {
	t.Helper()
	for line := range strings.Lines(a.ok(a.from, "join-token", "ls")) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == tok.ID() {
			return f[2]
		}
	}
	t.Fatal("the token is not listed")
	return ""
}

// stolen are the credentials in a file of a host.
func (a *attack) stolen(t *testing.T, host, file string) *pki.Credentials {
	t.Helper()
	var f struct {
		Chain [][]byte
		Key   []byte
	}
	readFile(t, filepath.Join(a.host(host).DataDir, "control", file), &f)
	key, err := x509.ParsePKCS8PrivateKey(f.Key)
	if err != nil {
		t.Fatal(err)
	}
	chain := &profilepb.CertificateChain{Certificates: f.Chain}
	trust, err := pki.TrustFromChain(chain)
	if err != nil {
		t.Fatal(err)
	}
	creds, err := pki.NewCredentials(chain, key.(crypto.Signer), trust)
	if err != nil {
		t.Fatal(err)
	}
	return creds
}

// admitted makes a worker of the test itself.
func (a *attack) admitted(t *testing.T, name string) *pki.Credentials {
	t.Helper()
	j, err := pki.Join(t.Context(), pki.JoinRequest{Token: a.token(t, "worker"), Managers: []string{a.follower}, NodeName: name})
	if err != nil {
		t.Fatal(err)
	}
	creds, err := pki.NewCredentials(j.Leaf, j.Key, j.Trust)
	if err != nil {
		t.Fatal(err)
	}
	return creds
}

// anyone is a caller who verifies nothing and shows creds, or nothing.
func anyone(creds *pki.Credentials, alpn ...string) *tls.Config {
	cfg := &tls.Config{InsecureSkipVerify: true, NextProtos: alpn, MinVersion: tls.VersionTLS13}
	if creds != nil {
		cfg.GetClientCertificate = creds.GetClientCertificate
	}
	return cfg
}

// dial returns a client of addr.
func dial(t *testing.T, addr string, cfg *tls.Config) (*pki.GRPCConn, error) {
	t.Helper()
	conn, err := pki.DialTLS(t.Context(), addr, cfg)
	if err != nil {
		return nil, err
	}
	cc, err := pki.GRPCOver(conn)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { cc.Close() })
	return cc, nil
}

// call makes one call on a connection of its own and returns its code:
// Unavailable where the connection was refused.
func call(t *testing.T, addr string, cfg *tls.Config, method string, req proto.Message) codes.Code {
	t.Helper()
	cc, err := dial(t, addr, cfg)
	if err != nil {
		return codes.Unavailable
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return status.Code(cc.Invoke(ctx, method, req, &pkipb.LockStatusResponse{}))
}

// hungUp reports whether addr ends a TLS connection by itself after saying
// nothing, or did not begin one.
func hungUp(t *testing.T, addr string, cfg *tls.Config) bool {
	t.Helper()
	conn, err := pki.DialTLS(t.Context(), addr, cfg)
	if err != nil {
		return true
	}
	defer conn.Close()
	return ends(conn, 15*time.Second)
}

func ends(conn net.Conn, within time.Duration) bool {
	conn.SetReadDeadline(time.Now().Add(within))
	_, err := io.Copy(io.Discard, conn)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

const (
	joinMethod    = "/redoubt.pki.v1.Join/Join"
	renewMethod   = "/redoubt.pki.v1.Renew/Renew"
	lockMethod    = "/redoubt.pki.v1.Lock/LockStatus"
	sessionMethod = "/redoubt.scheduler.v1.Dispatcher/Session"
)

// foreignCallers is every protocol by everybody who has no business there.
func foreignCallers(t *testing.T, a *attack) {
	foreign := pkitest.New(t)
	callers := map[string]*pki.Credentials{
		"nobody":          nil,
		"a worker":        a.stolen(t, "worker-1", "leaf"),
		"a boot leaf":     a.stolen(t, "manager-1", "boot"),
		"foreign manager": foreign.NewNode(t, profilepb.Role_ROLE_MANAGER).Credentials,
		"foreign worker":  foreign.NewNode(t, profilepb.Role_ROLE_WORKER).Credentials,
		"expired manager": foreign.NewNodeAt(t, profilepb.Role_ROLE_MANAGER, time.Now().Add(-72*time.Hour)).Credentials,
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, addr := range []string{a.leader, a.follower} {
		for name, creds := range callers {
			for _, alpn := range []string{pki.ALPNRaft, pki.ALPNLeader, pki.ALPNLocal, "http/1.1", ""} {
				wg.Go(func() {
					cfg := anyone(creds, alpn)
					if alpn == "" {
						cfg.NextProtos = []string{pki.ALPNGRPC, pki.ALPNRaft}
					}
					if !hungUp(t, addr, cfg) {
						t.Errorf("%s on %q at %s was kept", name, cfg.NextProtos, addr)
					}
				})
			}
		}
		for _, tc := range []struct {
			who, method string
			alpn        string
			req         proto.Message
			want        codes.Code
		}{
			// What is let in reaches the handler, which refuses what it says.
			{"nobody", joinMethod, pki.ALPNGRPC, &pkipb.JoinRequest{}, codes.PermissionDenied},
			{"nobody", joinMethod, pki.ALPNGRPC, &pkipb.JoinRequest{TokenId: ident.New(), NodeName: "x"}, codes.InvalidArgument},
			{"a worker", renewMethod, pki.ALPNGRPC, &pkipb.RenewRequest{}, codes.InvalidArgument},
			{"a boot leaf", lockMethod, pki.ALPNLock, &pkipb.LockStatusRequest{}, codes.OK},
			// And nothing else is.
			{"nobody", renewMethod, pki.ALPNGRPC, &pkipb.RenewRequest{}, codes.PermissionDenied},
			{"nobody", sessionMethod, pki.ALPNGRPC, &schedulerpb.AgentMessage{}, codes.PermissionDenied},
			{"nobody", controlpb.Control_ListNodes_FullMethodName, pki.ALPNGRPC, &controlpb.ListNodesRequest{}, codes.Unimplemented},
			{"a worker", joinMethod, pki.ALPNGRPC, &pkipb.JoinRequest{}, codes.PermissionDenied},
			{"a worker", controlpb.Control_ListNodes_FullMethodName, pki.ALPNGRPC, &controlpb.ListNodesRequest{}, codes.Unimplemented},
			{"a worker", lockMethod, pki.ALPNLock, &pkipb.LockStatusRequest{}, codes.Unavailable},
			{"a boot leaf", joinMethod, pki.ALPNGRPC, &pkipb.JoinRequest{}, codes.Unavailable},
			{"a boot leaf", renewMethod, pki.ALPNGRPC, &pkipb.RenewRequest{}, codes.Unavailable},
			{"a boot leaf", joinMethod, pki.ALPNLock, &pkipb.JoinRequest{}, codes.Unimplemented},
			{"foreign manager", joinMethod, pki.ALPNGRPC, &pkipb.JoinRequest{}, codes.Unavailable},
			{"foreign manager", lockMethod, pki.ALPNLock, &pkipb.LockStatusRequest{}, codes.Unavailable},
			{"foreign worker", renewMethod, pki.ALPNGRPC, &pkipb.RenewRequest{}, codes.Unavailable},
			{"expired manager", renewMethod, pki.ALPNGRPC, &pkipb.RenewRequest{}, codes.Unavailable},
		} {
			if tc.who == "a boot leaf" && tc.want == codes.OK && addr != a.addr2377("manager-1") {
				continue // one is enough
			}
			if got := call(t, addr, anyone(callers[tc.who], tc.alpn), tc.method, tc.req); got != tc.want {
				t.Errorf("%s calls %s on %s at %s: %v, want %v", tc.who, tc.method, tc.alpn, addr, got, tc.want)
			}
		}
		// Older TLS, other key exchanges, and bytes that are no handshake.
		old := anyone(nil, pki.ALPNGRPC)
		old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		classic := anyone(nil, pki.ALPNGRPC)
		classic.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256}
		for name, cfg := range map[string]*tls.Config{"TLS 1.2": old, "X25519": classic} {
			if _, err := pki.DialTLS(t.Context(), addr, cfg); err == nil {
				t.Errorf("%s was accepted at %s", name, addr)
			}
		}
		giant := append([]byte{22, 3, 1, 0x40, 0, 1, 0x0f, 0xff, 0xff}, bytes.Repeat([]byte{0}, 1<<20)...)
		for name, b := range map[string][]byte{"a giant ClientHello": giant, "HTTP": []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "an alert": {21, 3, 3, 0, 2, 2, 0}} {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			conn.Write(b) // it may be cut in the middle
			if !ends(conn, 20*time.Second) {
				t.Errorf("%s at %s was kept", name, addr)
			}
			conn.Close()
		}
	}
}

// joiner makes requests on one connection, as the holder of tok.
type joiner struct {
	pkipb.JoinClient
	tok      pki.Token
	exporter []byte
}

func (a *attack) joiner(t *testing.T, addr string, tok pki.Token) *joiner {
	t.Helper()
	cc, err := dial(t, addr, anyone(nil, pki.ALPNGRPC))
	if err != nil {
		t.Fatal(err)
	}
	cs := cc.TLS().ConnectionState()
	exporter, err := cs.ExportKeyingMaterial(profile.ExporterLabel, []byte(tok.ID()), profile.ExporterLen)
	if err != nil {
		t.Fatal(err)
	}
	return &joiner{pkipb.NewJoinClient(cc), tok, exporter}
}

func csr(t *testing.T) []byte {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := profile.NewCSR(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (j *joiner) request(t *testing.T, name string) *pkipb.JoinRequest {
	r := &pkipb.JoinRequest{TokenId: j.tok.ID(), NodeName: name, Csr: csr(t)}
	r.Proof = j.tok.Sign(profile.JoinProofInput(j.exporter, r.Csr, nil, r.TokenId))
	return r
}

// capturedJoin is a thief who saw everything that a joiner sent, on every
// manager, and who guesses.
func capturedJoin(t *testing.T, a *attack) {
	tok := a.token(t, "worker")
	refusal := ""
	refused := func(what string, j *joiner, r *pkipb.JoinRequest) {
		t.Helper()
		_, err := j.Join(t.Context(), r)
		switch msg := status.Convert(err).Message(); {
		case status.Code(err) != codes.PermissionDenied:
			t.Errorf("%s: %v", what, err)
		case refusal == "":
			refusal = msg
		case refusal != msg:
			t.Errorf("%s is told apart: %q, others %q", what, msg, refusal)
		}
	}
	honest := a.joiner(t, a.follower, tok)
	captured := honest.request(t, "victim")
	for _, addr := range []string{a.leader, a.follower} {
		refused("a captured join on another connection", a.joiner(t, addr, tok), captured)
	}
	bare, err := pki.NewToken().Bind(tok.ClusterID(), tok.Pin())
	if err != nil {
		t.Fatal(err)
	}
	thief := a.joiner(t, a.leader, tok) // the id, and so the exporter, without the seed
	guess := thief.request(t, "thief")
	guess.Proof = bare.Sign(profile.JoinProofInput(thief.exporter, guess.Csr, nil, tok.ID()))
	refused("the id of a token with another seed", thief, guess)
	unknown := a.joiner(t, a.leader, bare)
	refused("a token that was never made", unknown, unknown.request(t, "thief"))
	swapped := proto.CloneOf(captured)
	swapped.Csr = csr(t)
	refused("a proof over another request", honest, swapped)
	cut := proto.CloneOf(captured)
	cut.Proof = cut.Proof[:32]
	refused("half a proof", honest, cut)
	if got := a.uses(t, tok); got != "0/1" {
		t.Errorf("the token was used %s times by refused joins", got)
	}
	if _, err := honest.Join(t.Context(), captured); err != nil {
		t.Fatalf("the honest join through a follower: %v", err)
	}
	// Even on its own connection it is good for one answer.
	if _, err := honest.Join(t.Context(), captured); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the same join again: %v", err)
	}
	// A token makes what it says, whatever is asked for.
	boss := a.joiner(t, a.leader, a.token(t, "manager"))
	resp, err := boss.Join(t.Context(), boss.request(t, "small"))
	if err != nil || !resp.GetRetryAsRole() || resp.GetLeaf() != nil || resp.GetSealedKeyset() != nil {
		t.Errorf("a manager's token asking as a worker got %v, %v", resp, err)
	}
	small := a.joiner(t, a.leader, a.token(t, "worker"))
	r := &pkipb.JoinRequest{TokenId: small.tok.ID(), NodeName: "big", Csr: csr(t), BootCsr: csr(t), Address: "192.0.2.1:2377"}
	r.Proof = small.tok.Sign(profile.JoinProofInput(small.exporter, r.Csr, r.BootCsr, r.TokenId))
	resp, err = small.Join(t.Context(), r)
	if err != nil || !resp.GetRetryAsRole() || resp.GetRole() != profilepb.Role_ROLE_WORKER || resp.GetLeaf() != nil || resp.GetSealedKeyset() != nil {
		t.Errorf("a worker's token asking as a manager got %v, %v", resp, err)
	}
	// Revoked means at once.
	gone := a.joiner(t, a.leader, a.token(t, "worker"))
	a.ok(a.from, "join-token", "revoke", gone.tok.ID())
	if _, err := gone.Join(t.Context(), gone.request(t, "late")); !strings.Contains(fmt.Sprint(err), "revoked") {
		t.Errorf("a revoked token: %v", err)
	}
}

// tokensRace joins many times at once with a token that is good for one.
func tokensRace(t *testing.T, a *attack) {
	tok := a.token(t, "worker")
	const racers = 6
	var joiners []*joiner
	for i := range racers {
		joiners = append(joiners, a.joiner(t, []string{a.leader, a.follower}[i%2], tok))
	}
	start := make(chan struct{})
	errs := make(chan error, racers)
	for i, j := range joiners {
		r := j.request(t, fmt.Sprintf("racer-%d", i))
		go func() {
			<-start
			_, err := j.Join(t.Context(), r)
			errs <- err
		}()
	}
	close(start)
	won := 0
	for range racers {
		err := <-errs
		switch status.Code(err) {
		case codes.OK:
			won++
		case codes.PermissionDenied, codes.ResourceExhausted:
		default:
			t.Errorf("a loser was told: %v", err)
		}
	}
	if got := a.uses(t, tok); won != 1 || got != "1/1" {
		t.Errorf("%d joins won, the token counts %s", won, got)
	}
}

// hostileWorker says what no honest agent says. The managers' state machines
// halt on what they cannot read, so nothing of it may get that far.
func hostileWorker(t *testing.T, a *attack) {
	creds := a.admitted(t, "mole")
	unknown := protowire.AppendString(protowire.AppendTag(nil, 4000, protowire.BytesType), strings.Repeat("x", 1000))
	d := &schedulerpb.NodeDescription{Hostname: "mole", Os: "linux", Arch: "amd64", Resources: &taskpb.Resources{NanoCpus: 1},
		Features: []*taskpb.Feature{{Name: "f"}}}
	d.ProtoReflect().SetUnknown(unknown)
	d.Resources.ProtoReflect().SetUnknown(unknown)
	d.Features[0].ProtoReflect().SetUnknown(unknown)
	_, s := a.session(t, a.follower, creds, d)
	beat := &schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Heartbeat{Heartbeat: &schedulerpb.Heartbeat{AppliedIndex: 1 << 62}}}
	beat.ProtoReflect().SetUnknown(unknown)
	if err := s.Send(beat); err != nil {
		t.Fatal(err)
	}
	status := &schedulerpb.TaskReport{TaskId: ident.New(), Status: &schedulerpb.TaskStatus{State: schedulerpb.TaskState_TASK_STATE_RUNNING}}
	status.Status.ProtoReflect().SetUnknown(unknown)
	if err := s.Send(&schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Status{Status: &schedulerpb.StatusBatch{Reports: []*schedulerpb.TaskReport{status}}}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func() string {
		for _, n := range a.nodes(a.from) {
			if n.Hostname == "mole" && n.State == "ready" {
				return ""
			}
		}
		return "the worker's description was not taken in"
	})
	// Both managers go on.
	for _, m := range []string{"manager-1", "manager-2"} {
		a.ok(m, "node", "update", "--label-add", "alive=yes", "worker-1")
	}
}

// session opens a session and waits until the manager has answered.
func (a *attack) session(t *testing.T, addr string, creds *pki.Credentials, d *schedulerpb.NodeDescription) (*pki.GRPCConn, grpc.BidiStreamingClient[schedulerpb.AgentMessage, schedulerpb.ManagerMessage]) {
	t.Helper()
	cc, err := port.DialGRPC(t.Context(), creds, []string{addr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	s, err := schedulerpb.NewDispatcherClient(cc).Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Hello{Hello: &schedulerpb.Hello{Description: d}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatalf("no session at %s: %v", addr, err)
	}
	return cc, s
}

// silentConnections opens far more connections than are allowed, says nothing
// on them, half a ClientHello, or nothing after the handshake, and sees whether somebody else behind the same
// address is still served.
func silentConnections(t *testing.T, a *attack) {
	const many = 2000
	for _, addr := range []string{a.leader, a.follower} {
		for i := range many {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
			defer conn.Close()
			if i%2 == 0 {
				conn.Write([]byte{22, 3, 1, 2, 0, 1, 0})
			}
		}
		// Some shake hands first, and then wait.
		for range 20 {
			conn, err := pki.DialTLS(t.Context(), addr, anyone(nil, pki.ALPNGRPC))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		start := time.Now()
		if got := call(t, addr, anyone(nil, pki.ALPNGRPC), joinMethod, &pkipb.JoinRequest{TokenId: ident.New(), NodeName: "x"}); got != codes.InvalidArgument {
			t.Errorf("among %d silent connections to %s a joiner gets %v", many, addr, got)
		}
		t.Logf("among %d silent connections a joiner was answered after %v", many, time.Since(start).Round(time.Millisecond))
	}
	a.ok(a.from, "node", "update", "--label-add", "quiet=no", "worker-1")
}

// renewals are asked for by a thief, and lost on their way.
func renewals(t *testing.T, a *attack) {
	creds := a.admitted(t, "renewer")
	renew := func(addr string, showing, signing *pki.Credentials) (*pkipb.RenewResponse, error) {
		cc, err := port.DialGRPC(t.Context(), showing, []string{addr})
		if err != nil {
			return nil, err
		}
		defer cc.Close()
		req := &pkipb.RenewRequest{Csr: csr(t)}
		cert, err := signing.GetClientCertificate(nil)
		if err != nil {
			return nil, err
		}
		req.Proof, err = profile.SignRenewProof(cert.PrivateKey.(crypto.Signer), req.Csr, nil, signing.Leaf().Raw)
		if err != nil {
			return nil, err
		}
		return pkipb.NewRenewClient(cc).Renew(t.Context(), req)
	}
	other := a.admitted(t, "other")
	if _, err := renew(a.leader, other, creds); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a renewal signed by another node: %v", err)
	}
	// The replies are lost: the certificate at hand stays good for as many tries
	// as it takes.
	for i, addr := range []string{a.leader, a.follower, a.leader} {
		resp, err := renew(addr, creds, creds)
		if err != nil {
			t.Fatalf("renewal %d: %v", i+1, err)
		}
		certs, err := profile.ParseChain(resp.GetLeaf())
		if err != nil {
			t.Fatal(err)
		}
		if id, err := profile.NodeFromCert(certs[0]); err != nil || id.NodeID != creds.Identity().NodeID || id.Role != creds.Identity().Role {
			t.Errorf("the new certificate is of %v (%v)", id, err)
		}
	}
}

// removedWorker measures how long a removed worker keeps anything.
func removedWorker(t *testing.T, a *attack) {
	creds := a.admitted(t, "leaver")
	d := &schedulerpb.NodeDescription{Hostname: "leaver", Os: "linux", Arch: "amd64"}
	cc, s := a.session(t, a.follower, creds, d) // spliced
	idle, err := port.DialGRPC(t.Context(), creds, []string{a.leader})
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	var removed, cut time.Time
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := s.Recv(); err != nil {
				cut = time.Now()
				ended <- err
				return
			}
		}
	}()
	start := time.Now()
	a.ok(a.from, "node", "rm", "--force", creds.Identity().NodeID)
	removed = time.Now()
	select {
	case err := <-ended:
		t.Logf("the session ended with: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("the session of a removed worker goes on")
	}
	took := cut.Sub(removed)
	t.Logf("session cut %v after the removal was acknowledged (%v after it was asked for)", took.Round(time.Millisecond), cut.Sub(start).Round(time.Millisecond))
	if cut.Before(start) {
		t.Error("the session had ended before, for another reason")
	}
	if took > time.Second {
		t.Errorf("the session of a removed worker went on for %v", took)
	}
	for _, addr := range []string{a.leader, a.follower} {
		for _, m := range []string{renewMethod, sessionMethod, joinMethod} {
			if got := call(t, addr, creds.ClientConfig(pki.ALPNGRPC, ""), m, &pkipb.RenewRequest{}); got != codes.Unavailable && got != codes.PermissionDenied {
				t.Errorf("a removed worker calls %s at %s: %v", m, addr, got)
			}
		}
	}
	for name, c := range map[string]*pki.GRPCConn{"the session's": cc, "an idle": idle} {
		if err := c.Invoke(t.Context(), renewMethod, &pkipb.RenewRequest{}, &pkipb.RenewResponse{}); status.Code(err) != codes.Unavailable {
			t.Errorf("%s connection of a removed worker is still there: %v", name, err)
		}
	}
}
