//go:build interop

package e2e

import (
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// renewalStep is how far every clock is moved to have every node renew: beyond
// 80 % of a certificate's day, and not to its end.
const renewalStep = 20 * time.Hour

// TestInteropKilledRenewals: every certificate comes of age; node after node
// renews, which it does as its redoubtd starts, and a daemon of it is killed
// meanwhile: at a random moment, or as soon as its certificate directory
// changes. In the end every node has a certificate of the new time and is ready,
// and the container that runs all along did not notice.
// REDOUBT_KILLMATRIX_MINUTES makes it long, _SEED repeats the choices of an
// earlier run.
func TestInteropKilledRenewals(t *testing.T) {
	budget := 15 * time.Second
	if m, err := strconv.Atoi(os.Getenv("REDOUBT_KILLMATRIX_MINUTES")); err == nil && m > 0 {
		budget = time.Duration(m) * time.Minute
	}
	seed, err := strconv.ParseUint(os.Getenv("REDOUBT_KILLMATRIX_SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	useShifted(t)
	c := up(t, "renewals", 3, 1)
	c.load()
	c.ok("manager-1", "service", "create", "--quiet", "--name", "held", "--constraint", "node.role==worker", image)
	c.settableClocks()
	k := &killRun{cluster: c, rng: rand.New(rand.NewPCG(seed, 0)), keys: []string{string(c.key())}}
	k.mend("the restart")
	held := c.tasks("manager-1", "held")[0].ID
	pid, hosts := c.taskPID(held), c.hosts()
	start, kills := time.Now(), 0
	for ahead := renewalStep; time.Since(start) < budget; ahead += renewalStep {
		for _, h := range hosts {
			c.setClock(h, ahead)
		}
		for _, i := range k.rng.Perm(len(hosts)) {
			k.killRenewal(hosts[i], victims[kills%len(victims)])
			kills++
			if now := c.taskPID(held); now != pid {
				t.Fatalf("the container that ran all along was restarted: pid %d, then %d", pid, now)
			}
		}
	}
	t.Logf("%d kills in %v: every node renewed, no container restarted", kills, time.Since(start).Round(time.Second))
}

// killRenewal has a node renew, kills a daemon of it, mends what a person would
// mend and waits until it has a new certificate.
func (k *killRun) killRenewal(h host, victim string) {
	t := k.t
	k.n++
	moment, watch := time.Duration(k.rng.Int64N(int64(time.Second))), k.rng.IntN(2) == 0
	what := fmt.Sprintf("#%d %s of %s killed after %v", k.n, victim, h.Name, moment.Round(time.Millisecond))
	if watch {
		what = fmt.Sprintf("#%d %s of %s killed as its directory changed", k.n, victim, h.Name)
	}
	kill := func(name string) {
		pid := k.daemons(h)[name]
		if pid == 0 { // between two starts of redoubtd
			return
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	old, dir := certificateEnd(t, h), filepath.Join(h.DataDir, "control")
	before, begun := changedAt(t, dir), time.Now()
	kill("redoubtd")
	due := time.NewTimer(moment) // the moment is what is varied
	defer due.Stop()
	if watch {
		due.Reset(5 * time.Second)
	}
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for over := false; !over; {
		select {
		case <-due.C:
			over = true
		case <-look.C:
			over = watch && changedAt(t, dir).After(before)
		}
	}
	kill(victim)
	k.mend(what)
	eventually(t, 2*time.Minute, func() string {
		if end := certificateEnd(t, h); !end.After(old) {
			return fmt.Sprintf("%s: its certificate still ends %v: %s", what, end, k.on(h.Name, "status"))
		}
		return ""
	})
	t.Logf("%s: renewed and ready after %v", what, time.Since(begun).Round(time.Millisecond))
}

// certificateEnd is when the certificate ends that a node has kept. The file is
// replaced whole.
func certificateEnd(t *testing.T, h host) time.Time {
	t.Helper()
	var leaf struct{ Chain [][]byte }
	readFile(t, filepath.Join(h.DataDir, "control", "leaf"), &leaf)
	cert, err := x509.ParseCertificate(leaf.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return cert.NotAfter
}

func changedAt(t *testing.T, dir string) time.Time {
	fi, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	return fi.ModTime()
}
