package e2e

import (
	"crypto/tls"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// roleShown is the role in the certificate that a manager shows to anybody.
func roleShown(addr string) (profilepb.Role, error) {
	var role profilepb.Role
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", net.JoinHostPort(addr, "2377"), &tls.Config{
		InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, // it is looked at, not trusted
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768},
		VerifyConnection: func(s tls.ConnectionState) error {
			id, err := profile.NodeFromCert(s.PeerCertificates[0])
			role = id.Role
			return err
		},
	})
	if err == nil {
		conn.Close()
	}
	if role != profilepb.Role_ROLE_UNSPECIFIED {
		err = nil
	}
	return role, err
}

func (c *cluster) shows(h host, want profilepb.Role) {
	c.t.Helper()
	eventually(c.t, 30*time.Second, func() string {
		if role, err := roleShown(h.Address); err != nil || role != want {
			return fmt.Sprintf("%s shows a certificate of role %v (%v), want %v", h.Name, role, err, want)
		}
		return ""
	})
}

func keydCrashes(t *testing.T, c *cluster) {
	h := c.host("manager-1")
	c.shows(h, profilepb.Role_ROLE_MANAGER)
	before, _ := filepath.Glob("/core*")
	for name, sig := range map[string]syscall.Signal{"redoubtd": syscall.SIGABRT, "redoubt-keyd": syscall.SIGSEGV} {
		old := c.daemons(h)[name]
		start := time.Now()
		if err := syscall.Kill(old, sig); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, func() string {
			if pid := c.daemons(h)[name]; pid == 0 || pid == old {
				return name + " did not come back"
			}
			return ""
		})
		if name != "redoubt-keyd" {
			continue
		}
		eventually(t, time.Minute, func() string {
			if r := c.on("manager-1", "service", "ls"); r.code != 4 {
				return r.String()
			}
			return ""
		})
		t.Logf("locked %v after keyd crashed", time.Since(start).Round(10*time.Millisecond))
		c.shows(h, profilepb.Role_ROLE_BOOT)
	}
	if after, _ := filepath.Glob("/core*"); len(after) != len(before) {
		t.Errorf("a core was written: %v", after)
	}
	for _, dir := range []string{h.DataDir, h.RunDir} {
		for _, pattern := range []string{"core*", "*/core*"} {
			if cores, _ := filepath.Glob(filepath.Join(dir, pattern)); len(cores) > 0 {
				t.Errorf("a core was written: %v", cores)
			}
		}
	}
	// Nothing that is no key opens it, and each is told from the others.
	for _, bad := range []struct {
		code        int
		want, input string
	}{
		{4, "must start with", "hello"},
		{4, "characters", strings.TrimSpace(string(c.key()))[:30]},
		{4, "mistyped", mistyped(string(c.key()))},
		{4, "nothing was changed", newKey(t)},
		{4, "longer than", strings.Repeat("RDTKEY-", 4096)},
		{4, "nothing was changed", "RDTKEY-A\nRDTKEY-B\n"},
		{4, "no operator key", ""},
		{4, "must start with", "\x00\xff\xfe binary \x80"},
	} {
		c.refused("manager-1", bad.code, bad.want, []byte(bad.input), "unlock")
	}
	c.refused("manager-1", 2, "command line", nil, "unlock", newKey(t))
	c.unlock("manager-1")
	c.shows(h, profilepb.Role_ROLE_MANAGER)
}

// mistyped is a key with one character of another value.
func mistyped(key string) string {
	b := []byte(strings.TrimSpace(key))
	if b[10] == 'A' {
		b[10] = 'B'
	} else {
		b[10] = 'A'
	}
	return string(b)
}

func redoubtdRestarts(t *testing.T, c *cluster) {
	h := c.host("manager-1")
	old := c.daemons(h)["redoubtd"]
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	eventually(t, time.Minute, func() string {
		if pid := c.daemons(h)["redoubtd"]; pid == old || pid == 0 {
			return "redoubtd did not come back"
		}
		if r := c.on("manager-1", "node", "ls"); r.code != 0 {
			return r.String()
		}
		return ""
	})
	t.Logf("redoubtd was killed and answers again after %v, without a key", time.Since(start).Round(10*time.Millisecond))
}
