package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// thefts is how often it is tried and measured; keyd's rate makes more slow.
var thefts = flag.Int("thefts", 2, "removals in TestStolenManager")

const promoteMethod = "/redoubt.pki.v1.Membership/Promote"

// TestStolenManager: whoever has a manager's disk, the operator key of that day
// and so the whole keyset is cut at every manager by the removal, and nothing that the
// old keys sign opens anything again.
func TestStolenManager(t *testing.T) {
	c := up(t, "robbed", 3, 1)
	var cuts []time.Duration
	for i := range *thefts {
		if !t.Run(fmt.Sprintf("removed %d", i+1), func(t *testing.T) {
			sub := *c
			sub.t = t
			args := []string{"node", "rm", "--force", "manager-3"}
			if i == 0 {
				args = []string{"node", "rm", "--compromised", "manager-3"}
			}
			cuts = append(cuts, robbed(t, &sub, "manager-3", "manager-2", args...)...)
			if i < *thefts-1 {
				sub.joinsAgain("manager-3")
			}
		}) {
			return
		}
	}
	slices.Sort(cuts)
	t.Logf("commit → cut at a manager: n=%d, median %v, %v to %v", len(cuts), cuts[len(cuts)/2], cuts[0], cuts[len(cuts)-1])
	t.Run("demoted", func(t *testing.T) {
		sub := *c
		sub.t = t
		sub.joinsAgain("manager-3")
		for _, took := range robbed(t, &sub, "manager-2", "manager-3", "node", "demote", "manager-2") {
			t.Logf("commit → cut: %v", took)
		}
	})
}

// robbed takes the victim out while a thief has everything of it, and tries all
// that the thief can. It returns how long after the commit each of the thief's
// connections was cut.
func robbed(t *testing.T, c *cluster, victim, other string, leave ...string) []time.Duration {
	eventually(t, time.Minute, func() string {
		if c.leader("manager-1") != victim {
			return ""
		}
		return c.on("manager-1", leave...).String() // it hands over
	})
	a := &attack{cluster: c, from: "manager-1", leader: c.addr2377("manager-1"), follower: c.addr2377(other)}
	if c.leader("manager-1") == other {
		a.leader, a.follower = a.follower, a.leader
	}
	addrs := []string{a.leader, a.follower}
	th := a.steal(t, victim)
	before := a.token(t, "worker")
	kept := "" // a demoted manager may make one call on it, with which it becomes a worker
	if leave[1] == "demote" {
		kept = pki.ALPNGRPC
	}
	held := hold(t, th.creds, a, kept)
	c.takeOut(leave...)
	acked := time.Now()
	for name, creds := range th.forgeries(a.stolen(t, other, "boot"), a.stolen(t, "worker-1", "leaf")) {
		tryAll(t, name, creds, addrs)
	}
	forged, _ := th.mint(profilepb.Role_ROLE_WORKER)
	bound, err := forged.Bind(before.ClusterID(), before.Pin())
	if err != nil {
		t.Fatal(err)
	}
	for name, tok := range map[string]pki.Token{"a token of before": before, "a token that the thief signed": bound} {
		for _, addr := range addrs {
			if _, err := pki.Join(t.Context(), pki.JoinRequest{Token: tok, Managers: []string{addr}, NodeName: "thief"}); err == nil {
				t.Errorf("%s still joins at %s", name, addr)
			}
		}
	}
	t.Logf("all was tried %v after the command's end", time.Since(acked).Round(time.Millisecond))
	commit := c.committed()
	var cuts []time.Duration
	for name, at := range held.wait(t) {
		t.Logf("%s was cut %v after the commit", name, at.Sub(commit).Round(100*time.Microsecond))
		cuts = append(cuts, at.Sub(commit).Round(100*time.Microsecond))
	}
	return cuts
}

// takeOut runs a command that takes a manager out; `--compromised` warns with 3.
func (c *cluster) takeOut(args ...string) {
	c.t.Helper()
	eventually(c.t, time.Minute, func() string {
		r := c.on("manager-1", args...)
		key := shownKey.FindString(r.stdout)
		if r.code != 0 && r.code != 3 || key == "" {
			return r.String() // the one that leaves led, and handed over
		}
		c.keepKey(key)
		return ""
	})
}

// committed is when the last operator key's slot was replaced, which a manager's
// leaving does in its one transaction, by this machine's clock.
func (c *cluster) committed() time.Time {
	c.t.Helper()
	var at time.Time
	for line := range strings.Lines(c.ok("manager-1", "events", "--since", "1m", "--until", "0s", "--format", "json", "--filter", "type=unlock-key")) {
		var e struct {
			Time   time.Time
			Action string
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			c.t.Fatal(err)
		}
		if e.Action == "rotate" && e.Time.After(at) {
			at = e.Time
		}
	}
	if at.IsZero() {
		c.t.Fatal("no event of a rotation")
	}
	return at
}

func (c *cluster) joinsAgain(host string) {
	c.t.Helper()
	eventually(c.t, time.Minute, func() string {
		if r := c.on(host, "status"); r.code != 5 || strings.Contains(r.stdout, "being ended") {
			return r.String()
		}
		return ""
	})
	// keyd makes managers at a bounded rate, which this story exceeds: it gives one
	// more every ten seconds.
	again := time.NewTicker(11 * time.Second)
	defer again.Stop()
	var token string
	for try := 0; ; try++ {
		var r result
		if token == "" {
			if r = c.on("manager-1", "join-token", "manager", "-q"); r.code == 0 {
				token = strings.TrimSpace(r.stdout)
			}
		}
		if token != "" {
			r = c.onIn(host, []byte(token), "join", c.addr2377("manager-1"))
		}
		if r.code == 0 {
			break
		}
		if try == 12 {
			c.t.Fatalf("joining again: %v", r)
		}
		<-again.C
	}
	eventually(c.t, time.Minute, func() string {
		if names, all := c.voters("manager-1"); !slices.Contains(names, host) {
			return all
		}
		return ""
	})
}

// grip are connections that the thief holds.
type grip struct {
	wg  sync.WaitGroup
	mu  sync.Mutex
	cut map[string]time.Time // guarded by mu
}

// hold connects with all protocols and shows that each works. What is kept is
// not held on to.
func hold(t *testing.T, creds *pki.Credentials, a *attack, kept string) *grip {
	t.Helper()
	g := &grip{cut: map[string]time.Time{}}
	for _, addr := range []string{a.leader, a.follower} {
		for _, tc := range []struct {
			alpn, method string
			req          proto.Message
			want         codes.Code
		}{
			{pki.ALPNGRPC, renewMethod, &pkipb.RenewRequest{}, codes.InvalidArgument},
			{pki.ALPNLocal, controlpb.Control_ListNodes_FullMethodName, &controlpb.ListNodesRequest{}, codes.OK},
			{pki.ALPNLock, lockMethod, &pkipb.LockStatusRequest{}, codes.OK},
			{pki.ALPNRaft, "", nil, 0},
		} {
			if tc.alpn == pki.ALPNLocal && addr != a.leader {
				continue // a follower answers nobody's root but its own
			}
			cfg := creds.ClientConfig(tc.alpn, "")
			if tc.method != "" {
				if got := call(t, addr, cfg, tc.method, tc.req); got != tc.want {
					t.Fatalf("before the removal %s at %s gives %v: this test tries in vain", tc.alpn, addr, got)
				}
			}
			if tc.alpn == pki.ALPNLock || tc.alpn == kept {
				continue // nobody waits on it
			}
			conn, err := pki.DialTLS(t.Context(), addr, cfg)
			if err != nil {
				t.Fatal(err)
			}
			g.watch(t, fmt.Sprintf("%s at %s", tc.alpn, addr), conn)
		}
	}
	return g
}

// watch notes when the other side ends conn. A gRPC connection gets its preface and
// answers to pings, so that the server does not end it for silence: it lasts until it
// is cut.
func (g *grip) watch(t *testing.T, name string, conn net.Conn) {
	t.Cleanup(func() { conn.Close() })
	listen := func() { io.Copy(io.Discard, conn) }
	if !strings.HasPrefix(name, pki.ALPNRaft) {
		io.WriteString(conn, http2.ClientPreface)
		frames := http2.NewFramer(conn, conn)
		frames.WriteSettings()
		listen = func() {
			for frame, err := frames.ReadFrame(); err == nil; frame, err = frames.ReadFrame() {
				if ping, ok := frame.(*http2.PingFrame); ok && !ping.IsAck() {
					frames.WritePing(true, ping.Data)
				}
			}
		}
	}
	g.wg.Go(func() {
		listen()
		g.mu.Lock()
		defer g.mu.Unlock()
		g.cut[name] = time.Now()
	})
}

// wait returns when each was cut.
func (g *grip) wait(t *testing.T) map[string]time.Time {
	t.Helper()
	done := make(chan struct{})
	go func() { g.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		g.mu.Lock()
		defer g.mu.Unlock()
		t.Fatalf("after 20 s only these were cut: %v", g.cut)
	}
	return g.cut
}

// tryAll shows creds on every protocol of every manager, and calls what somebody
// might.
func tryAll(t *testing.T, name string, creds *pki.Credentials, addrs []string) {
	t.Helper()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, addr := range addrs {
		for _, alpn := range []string{pki.ALPNRaft, pki.ALPNLeader} {
			wg.Go(func() {
				if !hungUp(t, addr, anyone(creds, alpn)) {
					t.Errorf("%s was kept on %s at %s", name, alpn, addr)
				}
			})
		}
		for _, tc := range []struct {
			alpn, method string
			req          proto.Message
		}{
			{pki.ALPNGRPC, renewMethod, &pkipb.RenewRequest{}},
			{pki.ALPNGRPC, promoteMethod, &pkipb.PromoteRequest{}},
			{pki.ALPNGRPC, sessionMethod, &schedulerpb.AgentMessage{}},
			{pki.ALPNGRPC, joinMethod, &pkipb.JoinRequest{}},
			{pki.ALPNLocal, controlpb.Control_ListNodes_FullMethodName, &controlpb.ListNodesRequest{}},
			{pki.ALPNLock, lockMethod, &pkipb.LockStatusRequest{}},
		} {
			wg.Go(func() {
				switch got := call(t, addr, anyone(creds, tc.alpn), tc.method, tc.req); got {
				case codes.Unavailable, codes.PermissionDenied, codes.Unauthenticated:
				default:
					t.Errorf("%s calls %s at %s: %v", name, tc.method, addr, got)
				}
			})
		}
	}
}
