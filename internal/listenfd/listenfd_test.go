package listenfd

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// The test binary runs itself with a passed socket, as a supervisor would.
func TestMain(m *testing.M) {
	if os.Getenv("LISTENFD_CHILD") == "" {
		os.Exit(m.Run())
	}
	os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	ls, err := Listeners()
	if err != nil || len(ls) != 1 || ls["api"] == nil || os.Getenv("LISTEN_FDS") != "" {
		println("child:", len(ls), err)
		os.Exit(1)
	}
	conn, err := ls["api"].Accept()
	if err != nil {
		os.Exit(2)
	}
	conn.Write([]byte("ok"))
	conn.Close()
}

func TestListeners(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "LISTENFD_CHILD=1", "LISTEN_FDS=1", "LISTEN_FDNAMES=api")
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2)
	conn.Read(b)
	conn.Close()
	if err := cmd.Wait(); err != nil || string(b) != "ok" {
		t.Fatalf("%q, %v", b, err)
	}
}

func TestForeignPidGetsNothing(t *testing.T) {
	t.Setenv("LISTEN_PID", "1")
	t.Setenv("LISTEN_FDS", "3")
	if ls, err := Listeners(); err != nil || len(ls) != 0 {
		t.Fatalf("%v, %v", ls, err)
	}
}
