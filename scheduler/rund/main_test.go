package rund

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/cni"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundtest"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/tasklog"
)

// deadline is how long any one event may take on a loaded machine.
const deadline = 90 * time.Second

// One containerd serves all tests; they run one after another.
var (
	base       string // of everything on disk
	ctrd       *rundtest.Containerd
	probeImage v1.Image
	parent     string // cgroup
)

const probeRef = "redoubt.test/probe:1"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case tasklog.Command:
			if err := tasklog.Main(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		case cni.Command:
			fmt.Fprintln(os.Stderr, cniHelper(os.Args[2]))
			os.Exit(1)
		case "launch":
			fmt.Fprintln(os.Stderr, launch(os.Args[2:]))
			os.Exit(1)
		}
	}
	if os.Getenv("RUND_TEST_INSIDE") == "" {
		os.Exit(inOwnNamespace())
	}
	os.Exit(runAll(m))
}

// inOwnNamespace runs the tests in mount and pid namespaces of their own, so
// that no mount and no process of theirs outlives them, however they end.
func inOwnNamespace() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "RUND_TEST_INSIDE=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "these tests need root:", err)
		return 1
	}
	return 0
}

func runAll(m *testing.M) (code int) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(unix.Mount("proc", "/proc", "proc", 0, ""))
	var err error
	base, err = os.MkdirTemp("/tmp", "rund")
	must(err)
	must(os.Chmod(base, 0o711))
	must(os.MkdirAll("/run/containerd", 0o711))
	must(unix.Mount("tmpfs", "/run/containerd", "tmpfs", 0, "mode=711"))
	parent = "/" + strings.ToLower(filepath.Base(base)) // unique, as base is
	dir := filepath.Join(base, "c")
	must(os.Mkdir(dir, 0o711))
	ctrd, err = rundtest.Start(context.Background(), dir)
	must(err)
	defer func() {
		must(ctrd.Stop())
		must(os.RemoveAll(base))
		for _, d := range []string{"", "memory", "pids", "cpu", "cpuacct", "cpuset", "blkio", "devices", "freezer", "systemd", "unified"} {
			_ = os.Remove(filepath.Join(cgroupRoot, d, parent))
		}
	}()
	program, err := rundtest.BuildStatic(base, "github.com/redoubt-cluster/redoubt/scheduler/rund/rundtest/probe")
	must(err)
	probeImage, err = rundtest.BuildImage([]rundtest.File{
		{Name: "probe", Data: program, Mode: 0o755},
		{Name: "suid", Data: program, Mode: 0o4755},
		{Name: "etc/", Mode: 0o755},
		{Name: "etc/passwd", Data: []byte("root:x:0:0::/:/\napp:x:1000:1000::/:/\n"), Mode: 0o644},
		{Name: "etc/group", Data: []byte("root:x:0:\napp:x:1000:\nextra:x:2000:app\n"), Mode: 0o644},
		{Name: "home/", Mode: 0o755, UID: 1000, GID: 1000},
		{Name: "tmp/", Mode: 0o1777},
		{Name: "srv/", Mode: 0o750, UID: 1000, GID: 1000},
		{Name: "srv/seed", Data: []byte("of the image"), Mode: 0o640, UID: 1000, GID: 2000},
	}, v1.Config{Entrypoint: []string{"/probe"}, Cmd: []string{"wait"}, Env: []string{"FROM=image", "OVER=image"}, WorkingDir: "/home"}, "amd64")
	must(err)
	code = m.Run()
	if err := goleak.Find(goleak.IgnoreAnyFunction("github.com/redoubt-cluster/redoubt/scheduler/rund/rundtest.(*Containerd).Restart.func1")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}
