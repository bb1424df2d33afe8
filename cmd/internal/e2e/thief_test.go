package e2e

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// thief is somebody with a copy of a manager's data directory and the binaries.
type thief struct {
	t         *testing.T
	h         host
	dir       string // data, pristine, run
	supervise *exec.Cmd
	ended     chan struct{} // when supervise has
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
	script := fmt.Sprintf("ip link set lo up && ip addr add %s/32 dev lo && exec %s --config %s --data-dir %s --run-dir %s --control-user %s --keyd-user %s --netd-user 64999 --named-user 64990",
		th.h.Address, filepath.Join(binDir, "redoubt-node"), filepath.Join(filepath.Dir(th.h.DataDir), "config.yaml"),
		th.path("data"), th.path("run"), uid("control"), uid("keyd"))
	th.supervise = exec.Command("unshare", "--net", "--mount", "sh", "-c", script)
	th.supervise.Stdout, th.supervise.Stderr = th.log, th.log
	th.supervise.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	// The signal comes when the thread ends that began it, and threads end with
	// tests that were in other namespaces: this one stays.
	began := make(chan error, 1)
	th.ended = make(chan struct{})
	go func() {
		defer close(th.ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := th.supervise.Start()
		began <- err
		if err == nil {
			th.supervise.Wait()
		}
	}()
	if err := <-began; err != nil {
		th.supervise = nil
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
		<-th.ended
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
	found, err := filepath.Glob(th.path("data", "control/raft/wal*/*.wal"))
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
