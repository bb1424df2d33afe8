package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile"
)

// keydUID is a user that is nobody else.
const keydUID = 54322

// build compiles the daemon once into dir.
func build(t *testing.T, dir string) string {
	t.Helper()
	bin := filepath.Join(dir, "redoubt-keyd")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// launch starts the daemon as the supervisor does: own user, passed sockets.
func launch(t *testing.T, bin, dir string, listeners []*os.File) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	log := new(bytes.Buffer)
	cmd := exec.Command("/bin/sh", "-c", `export LISTEN_PID=$$; exec "$@"`, "sh", bin,
		"--config", filepath.Join(dir, "config.yaml"), "--data-dir", dir, "--run-dir", dir, "--control-user", fmt.Sprint(os.Getuid()))
	cmd.Env = []string{"LISTEN_FDS=2", "LISTEN_FDNAMES=keyd:unlock"}
	cmd.ExtraFiles, cmd.Stderr = listeners, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: keydUID, Gid: keydUID}, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, log
}

// The real binary in its real sandbox: a cluster is made, the process ends
// cleanly on SIGTERM, and the next one is locked until the key is given.
func TestDaemon(t *testing.T) {
	dir, err := os.MkdirTemp("", "keyd")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	data := filepath.Join(dir, "keyd")
	bin := build(t, dir)
	for _, err := range []error{
		os.Chmod(dir, 0o711), os.Mkdir(data, 0o700), os.Chown(data, keydUID, keydUID),
		os.WriteFile(filepath.Join(dir, "config.yaml"), []byte("keyd:\n  worker_leaf_lifetime: 12h\n"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var files []*os.File
	for _, name := range []string{"keyd.sock", "unlock.sock"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name)})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	control, root := keydclient.New(filepath.Join(dir, "keyd.sock")), keydclient.New(filepath.Join(dir, "unlock.sock"))
	defer control.Close()
	defer root.Close()

	cmd, log := launch(t, bin, dir, files)
	key := autolock.NewOperatorKey()
	keydKey, err := control.PrepareJoin(t.Context())
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("%v\n%s", err, log)
	}
	slot := key.Slot()
	if _, err := control.Init(t.Context(), &keydpb.InitRequest{
		NodeId: ident.New(), ManagerCsr: csr(t, keydKey), BootCsr: csr(t, nil), Slots: []*keydpb.Slot{slot},
	}); err != nil {
		t.Error(err)
	}
	checkSandbox(t, cmd.Process.Pid)
	watch, err := control.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("on SIGTERM: %v\n%s", err, log)
	}
	if err := watch.Wait(t.Context()); err == nil {
		t.Error("the loss of keyd was not noticed")
	}

	cmd, log = launch(t, bin, dir, files)
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	control.Close()
	if _, err := control.OpenStore(t.Context(), &keydpb.OpenStoreRequest{}); keydclient.CodeOf(err) != keydpb.Code_CODE_LOCKED {
		t.Errorf("after a restart: %v\n%s", err, log)
	}
	if id, err := root.Unlock(t.Context(), key.Seed()); err != nil || id != slot.Id {
		t.Errorf("unlock: %q, %v\n%s", id, err, log)
	}
	if st, err := control.Status(t.Context()); err != nil || len(st.Protections) < 4 {
		t.Errorf("status: %v, %v", st, err)
	}
}

func TestBadStartsAreRefused(t *testing.T) {
	dir := t.TempDir()
	bin := build(t, dir)
	config := filepath.Join(dir, "config.yaml")
	for content, want := range map[string]string{
		"keyd:\n  worker_leaf_lifetime: 1s\n": "must be between",
		"keyd:\n  worker_life: 12h\n":         "worker_life",
		"":                                    `no socket named "keyd"`,
	} {
		if err := os.WriteFile(config, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), bin, "--config", config, "--data-dir", dir, "--control-user", "1").CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%q: %v, %s", content, err, out)
		}
	}
}

func csr(t *testing.T, keydKey []byte) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := profile.NewCSR(key, keydKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func checkSandbox(t *testing.T, pid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000",
		fmt.Sprintf("Uid:\t%d\t%d\t%d\t%d", keydUID, keydUID, keydUID, keydUID)} {
		if !strings.Contains(string(status), want) {
			t.Errorf("/proc/%d/status does not have %q", pid, want)
		}
	}
}
