package e2e

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

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

// silentConnections opens far more connections than are allowed, says nothing
// on them, half a ClientHello, or nothing after the handshake, and sees whether
// somebody else behind the same address is still served. One who is put out in
// the midst of it comes again, as join and renewal do.
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
			eventually(t, 20*time.Second, func() string {
				conn, err := pki.DialTLS(t.Context(), addr, anyone(nil, pki.ALPNGRPC))
				if err != nil {
					return err.Error()
				}
				t.Cleanup(func() { conn.Close() })
				return ""
			})
		}
		start := time.Now()
		eventually(t, 20*time.Second, func() string {
			if got := call(t, addr, anyone(nil, pki.ALPNGRPC), joinMethod, &pkipb.JoinRequest{TokenId: ident.New(), NodeName: "x"}); got != codes.InvalidArgument {
				return fmt.Sprintf("among %d silent connections to %s a joiner gets %v", many, addr, got)
			}
			return ""
		})
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
		// Silence would have ended it, too, later and for another reason.
		if code := status.Code(err); code != codes.PermissionDenied && code != codes.Unavailable {
			t.Errorf("the session was not cut, it ended with: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the session of a removed worker goes on")
	}
	t.Logf("session cut %v after the removal was acknowledged (%v after it was asked for)", cut.Sub(removed).Round(time.Millisecond), cut.Sub(start).Round(time.Millisecond))
	if cut.Before(start) {
		t.Error("the session had ended before, for another reason")
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
