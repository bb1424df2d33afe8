package e2e

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
)

// releaseThief has a copy of a manager's disk, a machine in its network, and no key.
type releaseThief struct {
	*robber
	addrs []string
}

// stealDisk copies what the disk of a manager has at this moment.
func (a *attack) stealDisk(t *testing.T, host string, addrs []string) *releaseThief {
	t.Helper()
	dir := t.TempDir()
	state, err := os.ReadFile(filepath.Join(a.host(host).DataDir, "keyd", "state"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "state"), state, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	th := &releaseThief{&robber{t: t, boot: a.stolen(t, host, "boot")}, addrs}
	th.serve(dir)
	return th
}

// ticket is the copy's.
func (th *releaseThief) ticket() []byte {
	th.t.Helper()
	st, err := th.keyd.Status(th.t.Context())
	if err != nil || len(st.GetTicket()) == 0 {
		th.t.Fatal("the copy has no ticket:", st, err)
	}
	return st.GetTicket()
}

// asks shows the copy's ticket to every manager, and is what the leader says to it.
func (th *releaseThief) asks() string {
	th.t.Helper()
	ticket, said := th.ticket(), ""
	for _, addr := range th.addrs {
		ctx, cancel := context.WithTimeout(th.t.Context(), 10*time.Second)
		r, err := func() (*controlpb.ReleaseResponse, error) {
			conn, err := pki.DialTLS(ctx, addr, th.boot.ClientConfig(pki.ALPNLock, ""))
			if err != nil {
				return nil, err
			}
			c, err := pki.GRPCOver(conn)
			if err != nil {
				return nil, err
			}
			defer c.Close()
			return controlpb.NewUnlockingClient(c).Release(ctx, &controlpb.ReleaseRequest{Ticket: ticket})
		}()
		cancel()
		switch text := status.Convert(err).Message(); {
		case err == nil:
			if th.keyd.TakeRelease(th.t.Context(), r.GetSealed()) == nil {
				th.t.Fatal("the copy was opened")
			}
			th.t.Fatal("something was released to him")
		case !strings.Contains(text, "does not lead"):
			said += addr + ": " + text + "\n"
		}
	}
	return said
}

// gateway is the address of this process in a lab.
func (c *cluster) gateway() string {
	c.t.Helper()
	at := netip.MustParsePrefix(c.host("manager-1").Address + "/24")
	return at.Masked().Addr().Next().String()
}

// TestReleaseThief has somebody with a copy of a manager's disk, in its network, ask
// the others to open it: while that manager is up, while it is off, and after it was
// rebooted; more often than a keyd releases. It costs the manager nothing.
func TestReleaseThief(t *testing.T) {
	t.Parallel()
	c := up(t, "releasethief", 3, 0)
	const m = "manager-3"
	h := c.host(m)
	c.ok("manager-1", "unlock-key", "slot", "add", "release")
	a := &attack{cluster: c, from: "manager-1"}
	var others []string
	for _, name := range []string{"manager-1", "manager-2"} {
		others = append(others, net.JoinHostPort(c.host(name).Address, "2377"))
	}
	if c.leader("manager-1") == m { // who releases is one of the others
		c.lab("stop", m)
		c.lab("start", m)
		c.unlocked(m)
	}
	// Its newest ticket is known once it reported it.
	th := a.stealDisk(t, m, others)
	eventually(t, 30*time.Second, func() string {
		if said := th.asks(); !strings.Contains(said, "is open, at ") || !strings.Contains(said, "somebody else asks in its name") {
			return said
		}
		return ""
	})
	told := func(reason string) {
		t.Helper()
		eventually(t, 20*time.Second, func() string {
			out := c.ok("manager-1", "events", "--since", "10m", "--until", "0s")
			for line := range strings.Lines(out) {
				if strings.Contains(line, "unlock-key release-refused") && strings.Contains(line, reason) && !strings.Contains(line, h.Address) {
					return ""
				}
			}
			return out
		})
	}
	told("in use")
	for range 40 {
		th.asks()
	}
	journal := func() (n int) {
		for _, name := range []string{"manager-1", "manager-2"} {
			b, err := os.ReadFile(filepath.Join(c.host(name).DataDir, "keyd", "journal"))
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(b)) {
				if strings.Contains(line, `"event":"release"`) && strings.Contains(line, `"detail":"ticket `) {
					n++
				}
			}
		}
		return n
	}
	if n := journal(); n != 0 {
		t.Errorf("keyds released it %d times while it was up", n)
	}

	// Off: nobody is found at its address.
	c.lab("kill", "--containers", m)
	if said := th.asks(); !strings.Contains(said, "no locked manager was found") {
		t.Errorf("while the manager is off: %s", said)
	}
	told("elsewhere")

	// The manager itself comes back, and has its release; the copy is old then.
	c.lab("start", m)
	c.unlocked(m)
	if n := journal(); n != 1 {
		t.Errorf("keyds released it %d times, want once", n)
	}
	if said := th.asks(); !strings.Contains(said, "somebody else asks in its name") {
		t.Errorf("with an old ticket, while the manager is up: %s", said)
	}
	// While it is locked the session that is sealed to is its own; the ticket is old.
	c.ok("manager-1", "unlock-key", "slot", "rm", "release")
	c.ok("manager-1", "unlock-key", "slot", "add", "release", "--networks", c.gateway()+"/32")
	newer := a.stealDisk(t, m, others)
	eventually(t, 30*time.Second, func() string {
		if said := newer.asks(); !strings.Contains(said, "is open, at ") {
			return said
		}
		return ""
	})
	// A state, and a ticket, more. Its store gets a new key for the new slot too: what was
	// asked for first can have been that one, from before the theft. The last one is told
	// together with every ticket of before it.
	eventually(t, 60*time.Second, func() string {
		c.ok("manager-1", "store", "rotate-key", m)
		if bytes.Equal(a.stealDisk(t, m, others).ticket(), newer.ticket()) {
			return m + " has no newer ticket"
		}
		return ""
	})
	c.ok("manager-1", "store", "rotate-key", m)
	c.lab("kill", "--containers", m)
	c.lab("start", m)
	eventually(t, 30*time.Second, func() string {
		if r := c.on(m, "status"); !strings.Contains(r.stdout+r.stderr, "none of the networks") {
			return r.String()
		}
		return ""
	})
	eventually(t, 30*time.Second, func() string {
		if said := newer.asks(); !strings.Contains(said, "its disk is an old copy") {
			return said
		}
		return ""
	})
	told("old ticket")
	c.unlock(m)
	c.unlocked(m)
}
