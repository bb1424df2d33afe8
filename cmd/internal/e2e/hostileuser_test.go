package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

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
	for _, name := range []string{"redoubtd", "redoubt-keyd", "redoubt-netd", "redoubt-named"} {
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
		for _, name := range []string{"keyd", "unlock", "api", "metrics", "netd", "wg", "named", "named-net", "rund", "identity"} {
			helper := who == "redoubtd" && (name == "keyd" || name == "netd" || name == "named" || name == "rund" || name == "identity") || who == "redoubt-netd" && name == "named-net"
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
