package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// TestForgedCertificate: whoever has a manager's disk and its key has the key of the
// issuing CA, and nobody knows. The first certificate that is made with it and shown
// is refused, as the node has another one, and tells: an event, a warning, a line of
// `ca inspect`. The root's replacement ends it.
func TestForgedCertificate(t *testing.T) {
	t.Parallel()
	c := up(t, "forged", 1, 1)
	const m = "manager-1"
	a := &attack{cluster: c, leader: c.addr2377(m), follower: c.addr2377(m), from: m}
	th := a.steal(t, m)
	if out := c.ok(m, "ca", "inspect"); strings.Contains(out, "ALARM") {
		t.Fatalf("before anything was shown: %s", out)
	}
	leaf, _ := th.forge(profilepb.Role_ROLE_WORKER, c.nodeID("worker-1"))
	shown := time.Now()
	if a.admits(t, leaf) {
		t.Error("a forged certificate opens a session")
	}
	serial := leaf.Leaf().SerialNumber.Text(16)
	eventually(t, 30*time.Second, func() string {
		if r := c.on(m, "ca", "inspect"); !strings.Contains(r.stdout, "ALARM") || !strings.Contains(r.stdout, serial) {
			return r.String()
		}
		return ""
	})
	t.Logf("the alarm came %v after it was shown", time.Since(shown).Round(100*time.Millisecond))
	if out := c.on(m, "status").String(); !strings.Contains(out, "nobody gave out") || !strings.Contains(out, "redoubt ca rotate --root") {
		t.Errorf("status says nothing of it: %s", out)
	}
	if out := c.ok(m, "events", "--since", "5m", "--until", "0s", "--filter", "type=ca"); !strings.Contains(out, "unjournalled") || !strings.Contains(out, "worker-1") {
		t.Errorf("there is no event: %s", out)
	}

	c.ok(m, "ca", "rotate", "--root")
	if a.admits(t, leaf) {
		t.Error("it opens a session below the next root")
	}
	if out := c.on(m, "status").String(); strings.Contains(out, "nobody gave out") {
		t.Errorf("the next root has nothing to do with it: %s", out)
	}
	if out := c.ok(m, "events", "--since", "5m", "--until", "0s", "--filter", "type=ca"); !strings.Contains(out, "root-begin") || !strings.Contains(out, "root-end") {
		t.Errorf("there are no events of the root: %s", out)
	}
}

// TestForgedAtFollower: a forged certificate that is shown to a manager that does not
// lead, by the managers' own protocol, is an alarm of the cluster all the same.
func TestForgedAtFollower(t *testing.T) {
	t.Parallel()
	c := up(t, "forgedfollower", 3, 0)
	const m = "manager-1"
	follower := "manager-2"
	if c.leader(m) == follower {
		follower = "manager-3"
	}
	a := &attack{cluster: c, leader: c.addr2377(m), follower: c.addr2377(follower), from: m}
	leaf, _ := a.steal(t, m).forge(profilepb.Role_ROLE_MANAGER, ident.New())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if conn, err := pki.DialTLS(ctx, a.follower, leaf.ClientConfig(pki.ALPNWitness, c.nodeID(follower))); err == nil {
		_, err = conn.Read(make([]byte, 1))
		conn.Close()
		if err == nil {
			t.Error("it was let in")
		}
	}
	serial := leaf.Leaf().SerialNumber.Text(16)
	eventually(t, 30*time.Second, func() string {
		if r := c.on(m, "ca", "inspect"); !strings.Contains(r.stdout, "ALARM") || !strings.Contains(r.stdout, serial) || !strings.Contains(r.stdout, c.gateway()) {
			return r.String()
		}
		return ""
	})
	if out := c.ok(m, "events", "--since", "5m", "--until", "0s", "--filter", "type=ca"); !strings.Contains(out, "unjournalled") {
		t.Errorf("there is no event: %s", out)
	}
}

// admits reports whether those credentials open a session.
func (a *attack) admits(t *testing.T, creds *pki.Credentials) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cc, err := port.DialGRPC(ctx, creds, []string{a.leader})
	if err != nil {
		return false
	}
	defer cc.Close()
	s, err := schedulerpb.NewDispatcherClient(cc).Session(ctx)
	if err == nil {
		_, err = s.Recv()
	}
	return err == nil
}
