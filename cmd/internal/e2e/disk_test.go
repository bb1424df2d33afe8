package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// TestStolenDisk is the story of a manager's disk in the wrong hands, and of
// hostile users on its machine.
func TestStolenDisk(t *testing.T) {
	t.Parallel()
	c := up(t, "disk", 1, 1)
	c.load()
	for _, story := range []struct {
		name string
		tell func(*testing.T, *cluster)
	}{
		{"no secret is in any file, log or argument", secretsStayOut},
		{"no other user reaches a daemon", hostileUser},
		{"a daemon that crashes leaves no core, and keyd's end locks the manager", keydCrashes},
		{"redoubtd comes back unlocked", redoubtdRestarts},
		{"the disk is worth nothing without the key", diskAlone},
		{"every damage is named", damages},
		{"no secret is in the segments of the other log store", otherLogStore},
	} {
		if !t.Run(story.name, func(t *testing.T) {
			sub := *c
			sub.t = t
			story.tell(t, &sub)
		}) {
			return
		}
	}
}

var (
	keyText   = regexp.MustCompile(`RDTKEY-[A-Z2-7-]+`)
	tokenText = regexp.MustCompile(`RDT1\.([a-z2-7]+)\.([a-z2-7]+)\.[a-z2-7]+\.[a-z2-7]+`)
)

// forms are a secret as it might stand in a file.
func forms(secret []byte) (out [][]byte) {
	b32 := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(secret)
	for _, s := range []string{string(secret), hex.EncodeToString(secret), b32[:40], strings.ToLower(b32)[:40],
		base64.StdEncoding.EncodeToString(secret)[:32]} {
		out = append(out, []byte(s))
	}
	return out
}

func secretsStayOut(t *testing.T, c *cluster) {
	const env, service = "canary-value-2b71d0c4", "canary-on-the-disk"
	c.ok("manager-1", "service", "create", "--detach", "--name", service, "--replicas", "1", "--env", "CANARY="+env, image)
	token := tokenText.FindSubmatch([]byte(c.ok("manager-1", "join-token", "worker")))
	if token == nil {
		t.Fatal("no join token was shown")
	}
	seed, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ToUpper(string(token[2])))
	if err != nil {
		t.Fatal(err)
	}
	key, err := autolock.ParseOperatorKey(string(c.key()))
	if err != nil {
		t.Fatal(err)
	}
	secrets := append(forms(seed), forms(key.Seed())...)
	secrets = append(secrets, bytes.TrimSpace(c.key()), []byte(env))
	var everything []string
	for _, h := range c.hosts() {
		everything = append(everything, h.DataDir, h.RunDir, filepath.Join(filepath.Dir(h.DataDir), "redoubt-node.log"))
	}
	if found := c.filesWith(secrets, everything...); len(found) > 0 {
		t.Errorf("a secret stands in %v", found)
	}
	// What a manager keeps names neither what it runs nor who else is there.
	if found := c.filesWith([][]byte{[]byte(service), []byte(image), []byte("worker-1")}, c.host("manager-1").DataDir); len(found) > 0 {
		t.Errorf("a service's, an image's or another node's name stands in %v", found)
	}
	for _, file := range []string{"cmdline", "environ"} {
		all, _ := filepath.Glob("/proc/[0-9]*/" + file)
		for _, path := range all {
			b, err := os.ReadFile(path)
			if err != nil {
				continue // it ended
			}
			for _, s := range secrets[:len(secrets)-1] { // a container has its environment
				if bytes.Contains(b, s) {
					t.Errorf("%s holds a secret", path)
				}
			}
		}
	}
	c.ok("manager-1", "service", "rm", service)
}

// As another user this test binary tries one thing and says how that went.
func init() {
	words := strings.Fields(os.Getenv("REDOUBT_E2E_TRY"))
	if len(words) == 0 {
		return
	}
	var uid, pid int
	fmt.Sscan(words[0], &uid)
	err := syscall.Setgroups(nil)
	if err == nil {
		err = syscall.Setgid(uid)
	}
	if err == nil {
		err = syscall.Setuid(uid)
	}
	if err != nil {
		fmt.Print("cannot become that user: ", err)
		os.Exit(1)
	}
	switch words[1] {
	case "read":
		_, err = os.ReadFile(words[2])
		if f, oerr := os.Open(words[2]); oerr == nil { // reading at 0 fails for mem
			f.Close()
			err = nil
		}
	case "trace":
		fmt.Sscan(words[2], &pid)
		err = syscall.PtraceAttach(pid)
	case "connect":
		var conn net.Conn
		if conn, err = net.DialTimeout("unix", words[2], 5*time.Second); err == nil {
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			conn.Write([]byte{0, 0, 0, 2, 0x0a, 0}) // keyd's status request
			_, err = conn.Read(make([]byte, 1))
		}
	}
	if err != nil {
		fmt.Print(err)
		os.Exit(1)
	}
	fmt.Print("done")
	os.Exit(0)
}

// as reports whether uid could do it.
func as(t *testing.T, uid uint32, do ...string) bool {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("REDOUBT_E2E_TRY=%d %s", uid, strings.Join(do, " ")))
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "cannot become") {
		t.Fatalf("%s", out)
	}
	return err == nil
}

func hostileUser(t *testing.T, c *cluster) {
	h := c.host("manager-1")
	pids := c.daemons(h)
	uids := map[string]uint32{"nobody": 65534}
	for _, name := range []string{"redoubtd", "redoubt-keyd", "redoubt-netd"} {
		var uid uint32
		fmt.Sscan(c.proc(pids[name])["Uid"], &uid)
		uids[name] = uid
	}
	for who, uid := range uids {
		for name, pid := range pids {
			for _, file := range []string{"mem", "environ", "maps", "auxv"} {
				if as(t, uid, "read", fmt.Sprintf("/proc/%d/%s", pid, file)) {
					t.Errorf("the user of %s reads %s of %s", who, file, name)
				}
			}
			if as(t, uid, "trace", fmt.Sprint(pid)) {
				t.Errorf("the user of %s traces %s", who, name)
			}
		}
		for _, path := range []string{"keyd/state", "keyd/journal", "control/leaf", "control/boot", "control/member", "control/raft/raft.db"} {
			owner := map[bool]string{true: "redoubt-keyd", false: "redoubtd"}[strings.HasPrefix(path, "keyd/")]
			if who != owner && as(t, uid, "read", filepath.Join(h.DataDir, path)) {
				t.Errorf("the user of %s reads %s", who, path)
			}
		}
		for _, name := range []string{"keyd", "unlock", "api", "metrics", "netd", "rund"} {
			helper := who == "redoubtd" && (name == "keyd" || name == "netd" || name == "rund")
			if !helper && as(t, uid, "connect", filepath.Join(h.RunDir, name+".sock")) {
				t.Errorf("the user of %s is answered on %s.sock", who, name)
			}
		}
	}
	// Root's own mistakes: the sockets of helpers are for redoubtd alone.
	if as(t, 0, "connect", filepath.Join(h.RunDir, "keyd.sock")) {
		t.Error("root is answered on keyd.sock")
	}
	// The attempts above must be able to succeed, or they prove nothing.
	if !as(t, uids["redoubtd"], "connect", filepath.Join(h.RunDir, "keyd.sock")) ||
		!as(t, 0, "connect", filepath.Join(h.RunDir, "unlock.sock")) ||
		!as(t, 0, "read", fmt.Sprintf("/proc/%d/mem", pids["redoubt-keyd"])) {
		t.Error("who may do these things cannot")
	}
}

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
		{4, "more than one line", "RDTKEY-A\nRDTKEY-B\n"},
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

// thief is somebody with a copy of a manager's data directory and the binaries.
type thief struct {
	t         *testing.T
	h         host
	dir       string // data, pristine, run
	supervise *exec.Cmd
	log       *os.File
}

// steal copies the directory of a stopped manager.
func steal(t *testing.T, h host) *thief {
	t.Helper()
	dir, err := os.MkdirTemp("", "thief-") // short, as socket paths must be
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		t.Fatal(err)
	}
	th := &thief{t: t, h: h, dir: dir}
	t.Cleanup(func() {
		th.stop()
		os.RemoveAll(dir)
	})
	th.sh("cp", "-a", h.DataDir, th.path("pristine"))
	if th.log, err = os.Create(th.path("log")); err != nil {
		t.Fatal(err)
	}
	th.restore()
	return th
}

func (th *thief) path(parts ...string) string {
	return filepath.Join(append([]string{th.dir}, parts...)...)
}

func (th *thief) sh(args ...string) {
	th.t.Helper()
	if out, err := exec.CommandContext(th.t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
		th.t.Fatalf("%v: %v: %s", args, err, out)
	}
}

// restore puts back the copy as it was stolen.
func (th *thief) restore() {
	th.t.Helper()
	th.sh("rm", "-rf", th.path("data"), th.path("run"))
	th.sh("cp", "-a", th.path("pristine"), th.path("data"))
	if err := th.log.Truncate(0); err != nil {
		th.t.Fatal(err)
	}
	th.log.Seek(0, 0)
}

// start runs the node on the copy, alone in a network that has its address.
func (th *thief) start() {
	th.t.Helper()
	uid := func(name string) string {
		owner, err := ownerOf(th.path("data", name))
		if err != nil {
			th.t.Fatal(err)
		}
		return fmt.Sprint(owner)
	}
	script := fmt.Sprintf("ip link set lo up && ip addr add %s/32 dev lo && exec %s --config %s --data-dir %s --run-dir %s --control-user %s --keyd-user %s --netd-user 64999",
		th.h.Address, filepath.Join(binDir, "redoubt-node"), filepath.Join(filepath.Dir(th.h.DataDir), "config.yaml"),
		th.path("data"), th.path("run"), uid("control"), uid("keyd"))
	th.supervise = exec.Command("unshare", "--net", "--mount", "sh", "-c", script)
	th.supervise.Stdout, th.supervise.Stderr = th.log, th.log
	th.supervise.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := th.supervise.Start(); err != nil {
		th.t.Fatal(err)
	}
	eventually(th.t, 30*time.Second, func() string {
		if _, err := os.Stat(th.path("run", "metrics.sock")); err != nil {
			return "no sockets: " + th.logs()
		}
		return ""
	})
}

func (th *thief) stop() {
	if th.supervise != nil {
		th.supervise.Process.Signal(syscall.SIGTERM)
		th.supervise.Wait()
		th.supervise = nil
	}
}

func (th *thief) logs() string {
	b, _ := os.ReadFile(th.log.Name())
	return string(b)
}

// redoubt runs the CLI against the node on the copy.
func (th *thief) redoubt(stdin []byte, args ...string) result {
	th.t.Helper()
	return run(th.t, stdin, append([]string{"--host", "unix://" + th.path("run", "api.sock")}, args...)...)
}

// rotate replaces the lab's operator key, once every manager has a session.
func (c *cluster) rotate(from string) (key string) {
	c.t.Helper()
	eventually(c.t, time.Minute, func() string {
		r := c.on(from, "unlock-key", "rotate")
		if key = keyText.FindString(r.stdout); r.code != 0 || key == "" {
			return r.String()
		}
		return ""
	})
	c.keepKey(key)
	return key
}

// keepKey makes key the lab's.
func (c *cluster) keepKey(key string) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join("/var/lib/redoubt-lab", c.name, "operator.key"), []byte(key+"\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func diskAlone(t *testing.T, c *cluster) {
	old := c.key()
	fresh := c.rotate("manager-1")
	c.ok("manager-1", "service", "create", "--detach", "--name", "what-the-thief-wants", "--replicas", "0", image)
	c.lab("stop", "manager-1")
	th := steal(t, c.host("manager-1"))

	// Daemons by themselves do nothing.
	for _, name := range []string{"redoubtd", "redoubt-keyd", "redoubt-netd", "redoubt-rund"} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(binDir, name), "--data-dir", th.path("data"), "--run-dir", th.dir, "--control-user", "0")
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "redoubt-node") {
			t.Errorf("%s on the copy: %v, %s", name, err, out)
		}
	}
	th.start()
	eventually(t, 30*time.Second, func() string {
		if r := th.redoubt(nil, "service", "ls"); r.code != 4 {
			return r.String()
		}
		return ""
	})
	for _, args := range [][]string{{"service", "ls"}, {"service", "inspect", "what-the-thief-wants"}, {"node", "ls"}, {"join-token", "worker"},
		{"join-token", "ls"}, {"unlock-key", "rotate"}, {"unlock-key", "slot", "ls"}, {"init"}} {
		if r := th.redoubt(nil, args...); r.code == 0 || keyText.MatchString(r.stdout) || strings.Contains(r.stdout+r.stderr, "wants") && args[0] != "service" {
			t.Errorf("redoubt %v on the copy: %v", args, r)
		}
	}
	for name, key := range map[string]string{"another cluster's key": newKey(t), "the key before the rotation": string(old)} {
		if r := th.redoubt([]byte(key), "unlock"); r.code != 4 || !strings.Contains(r.stderr, "does not open") {
			t.Errorf("%s: %v", name, r)
		}
	}
	if r := th.redoubt(nil, "service", "ls"); r.code != 4 {
		t.Errorf("after wrong keys: %v", r)
	}
	// With the key it is the manager: that is what the key is.
	if r := th.redoubt([]byte(fresh), "unlock"); r.code != 0 {
		t.Fatalf("the right key: %v\n%s", r, th.logs())
	}
	if r := th.redoubt(nil, "service", "ls"); r.code != 0 || !strings.Contains(r.stdout, "what-the-thief-wants") {
		t.Errorf("with the right key: %v", r)
	}
	th.stop()
}

// flip changes one bit of a file of the copy, at a fraction of its length.
func (th *thief) flip(name string, at float64) {
	th.t.Helper()
	th.change(name, at, func(b byte) byte { return b ^ 1 })
}

func (th *thief) change(name string, at float64, to func(byte) byte) {
	th.t.Helper()
	b, err := os.ReadFile(th.path("data", name))
	if err != nil {
		th.t.Fatal(err)
	}
	i := int(float64(len(b)) * at)
	b[i] = to(b[i])
	f, err := os.OpenFile(th.path("data", name), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.Write(b)
		f.Close()
	}
	if err != nil {
		th.t.Fatal(err)
	}
}

// flipEntry changes one bit of a sealed log entry: the middle of the first one
// in a segment. A segment has a header of 32 bytes, then frames: the kind, three
// empty bytes, the length (little-endian, 4 bytes), and what it says of content.
func (th *thief) flipEntry() {
	th.t.Helper()
	found, err := filepath.Glob(th.path("data", "control/raft/wal/*.wal"))
	if err != nil || len(found) == 0 {
		th.t.Fatalf("segments %v, %v", found, err)
	}
	f, err := os.OpenFile(found[0], os.O_RDWR, 0)
	if err != nil {
		th.t.Fatal(err)
	}
	defer f.Close()
	const header, frame, entry = 32, 8, 1
	head := make([]byte, frame)
	if _, err := f.ReadAt(head, header); err != nil || head[0] != entry {
		th.t.Fatalf("the first frame is % x, %v", head, err)
	}
	at := int64(header + frame + binary.LittleEndian.Uint32(head[4:])/2)
	b := make([]byte, 1)
	if _, err = f.ReadAt(b, at); err == nil {
		b[0] ^= 1
		_, err = f.WriteAt(b, at)
	}
	if err != nil {
		th.t.Fatal(err)
	}
}

// mirrored is base64 text of the same length that is another.
func mirrored(s string) string {
	b, _ := base64.StdEncoding.DecodeString(s)
	b[len(b)/2] ^= 1
	return base64.StdEncoding.EncodeToString(b)
}

func damages(t *testing.T, c *cluster) {
	th := steal(t, c.host("manager-1"))
	for _, d := range []struct {
		name string
		do   func()
		code int    // of unlock; 0 only where the manager may come up, -1 where redoubtd may be away
		says string // by unlock, the status or the log
	}{
		{"the state in the middle", func() { th.flip("keyd/state", 0.5) }, 1, "state file is damaged"},
		{"the state's first byte", func() { th.flip("keyd/state", 0) }, 1, "state file is damaged"},
		{"the state's sealed key", func() { th.flip("keyd/state", 0.4) }, 1, "state file is damaged"},
		{"the state is gone", func() { th.sh("rm", th.path("data", "keyd/state")) }, 1, "keyd's directory was lost"},
		{"the journal", func() { th.flip("keyd/journal", 0.5) }, 0, "the journal was changed or damaged"},
		{"the leaf", func() { th.flip("control/leaf", 0.5) }, 3, "leaf is damaged"},
		{"the leaf's sealed key", func() {
			th.rewrite("control/leaf", func(f map[string]any) { f["sealed"] = mirrored(f["sealed"].(string)) })
		}, 3, "sealed certificate key does not open"},
		{"the leaf's certificate", func() {
			th.rewrite("control/leaf", func(f map[string]any) { f["chain"] = f["chain"].([]any)[1:] })
		}, 3, "certificate"},
		{"the boot leaf", func() { th.flip("control/boot", 0.1) }, -1, "boot is damaged"},
		{"the membership", func() { th.flip("control/member", 0.5) }, -1, "member is damaged"},
		{"the node's id", func() {
			th.rewrite("control/member", func(f map[string]any) { f["node_id"] = "aaaaaaaaaaaaaaaaaaaaaaaaaa" })
		}, 3, "keys of another node"},
		{"a log entry", th.flipEntry, 3, "does not open: it was damaged"},
	} {
		d.do()
		th.start()
		begun := time.Now()
		wait := "2s" // for what will not come
		if d.code == 0 {
			wait = "1m"
		}
		r := th.redoubt(c.key(), "unlock", "--timeout", wait)
		if r.code != d.code && (d.code >= 0 || r.code == 0) || strings.Contains(r.stderr, "the key does not open") || strings.Count(strings.TrimSpace(r.stderr), "\n") > 0 {
			t.Errorf("%s: unlock: want exit %d and never a wrong key, got %v", d.name, d.code, r)
		}
		var told string
		eventually(t, 20*time.Second, func() string {
			if told = r.stderr + th.logs(); strings.Contains(told, d.says) {
				return ""
			}
			if told += th.redoubt(nil, "status").stdout; !strings.Contains(told, d.says) {
				return fmt.Sprintf("%s: nobody says %q: %s", d.name, d.says, told)
			}
			return ""
		})
		if r.code == 1 {
			eventually(t, 20*time.Second, func() string {
				if s := th.redoubt(nil, "status").stdout; strings.Contains(s, "run `redoubt unlock`") {
					return d.name + ": the status asks for a key that cannot help: " + s
				}
				return ""
			})
		}
		th.stop()
		th.restore()
		t.Logf("%s: exit %d after %v", d.name, r.code, time.Since(begun).Round(100*time.Millisecond))
	}
}

// TestRotationCutShort is the story of a rotation that does not run smoothly: at
// any time exactly one key opens a manager, and which one can be seen.
func TestRotationCutShort(t *testing.T) {
	t.Parallel()
	c := up(t, "diskrot", 2, 0)
	first := string(c.key())
	eventually(t, time.Minute, func() string { return c.behind() })

	// keyd of manager-2 does not answer while the others re-seal.
	m2 := c.host("manager-2")
	pid := c.daemons(m2)["redoubt-keyd"]
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r := c.on("manager-1", "unlock-key", "rotate", "--timeout", "3s")
	second := keyText.FindString(r.stdout)
	if r.code != 3 || second == "" || !strings.Contains(r.stderr, "manager-2") || strings.Contains(r.stderr, "manager-1") {
		t.Errorf("rotate while keyd of manager-2 hangs: %v", r)
	}
	if r := c.on("manager-1", "unlock-key", "rotate"); r.code != 1 || !strings.Contains(r.stderr, "manager-2") {
		t.Errorf("rotate before the last one ended: %v", r)
	}
	// It dies there: its manager opens with the old key, once, and catches up.
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() string {
		if r := c.on("manager-2", "service", "ls"); r.code != 4 {
			return "manager-2 is not locked: " + r.String()
		}
		return ""
	})
	c.refused("manager-2", 4, "does not open", []byte(second), "unlock")
	if r := c.onIn("manager-2", []byte(first), "unlock"); r.code != 0 {
		t.Fatalf("the key manager-2 was sealed to: %v", r)
	}
	eventually(t, time.Minute, func() string { return c.behind() })
	c.keepKey(second)
	for _, m := range []string{"manager-1", "manager-2"} {
		c.lab("stop", m)
		c.lab("start", m)
		c.refused(m, 4, "does not open", []byte(first), "unlock")
	}
	for _, m := range []string{"manager-1", "manager-2"} {
		if r := c.onIn(m, []byte(second), "unlock"); r.code != 0 && r.code != 3 { // it takes both to be active
			t.Fatalf("%s: the key in force: %v", m, r)
		}
	}
	eventually(t, time.Minute, func() string { return c.behind() })

	// The command is killed as soon as the key was shown: committed or not, one
	// of the two keys opens all managers.
	third := c.rotateAndDie("manager-1")
	eventually(t, time.Minute, func() string { return c.behind() })
	c.lab("stop", "manager-2")
	c.lab("start", "manager-2")
	var opened []string
	for _, key := range []string{second, third} {
		if r := c.onIn("manager-2", []byte(key), "unlock"); r.code == 0 {
			opened = append(opened, key)
		} else if !strings.Contains(r.stderr, "does not open") && !strings.Contains(r.stderr, "not locked") {
			t.Errorf("after the command was killed: %v", r)
		}
	}
	if len(opened) != 1 {
		t.Fatalf("%d keys open manager-2 after the command was killed", len(opened))
	}
	c.keepKey(opened[0])

	// States of two managers that are exchanged open with the right key, and
	// are found to be another's.
	m1 := c.host("manager-1")
	c.lab("stop", "manager-1")
	c.lab("stop", "manager-2")
	th, other := steal(t, m1), filepath.Join(m2.DataDir, "keyd", "state")
	th.sh("cp", "--no-preserve=all", other, th.path("swapped"))
	th.sh("cp", "--no-preserve=all", th.path("swapped"), th.path("data", "keyd", "state"))
	th.start()
	if r := th.redoubt(c.key(), "unlock", "--timeout", "2s"); r.code == 0 || strings.Contains(r.stderr, "the key does not open") ||
		!strings.Contains(r.stderr, "manager") {
		t.Errorf("manager-1 with the keys of manager-2: %v", r)
	}
	if r := th.redoubt(nil, "service", "ls"); r.code != 4 {
		t.Errorf("manager-1 with the keys of manager-2: %v", r)
	}
}

// behind says which managers have no session or are not sealed to the slots in
// force.
func (c *cluster) behind() string {
	c.t.Helper()
	r := c.on("manager-1", "unlock-key", "slot", "ls")
	if r.code != 0 || strings.Contains(r.stdout, "behind") || strings.Contains(r.stdout, "away") || strings.Count(r.stdout, "current") != 2 {
		return r.String()
	}
	return ""
}

// rotateAndDie kills the command when the key has been shown.
func (c *cluster) rotateAndDie(from string) (key string) {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), filepath.Join(binDir, "redoubt"), "--host", "unix://"+filepath.Join(c.host(from).RunDir, "api.sock"), "unlock-key", "rotate")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for key == "" && lines.Scan() {
		key = keyText.FindString(lines.Text())
	}
	cmd.Process.Kill()
	cmd.Wait()
	if key == "" {
		c.t.Fatal("no key was shown")
	}
	return key
}
