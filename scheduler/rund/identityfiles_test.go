package rund

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// TestIdentityFiles: a task waits for the files of its identity, has them as the user
// that it runs as, gets others in their place while it runs, also of a rund that was
// started since, and leaves nothing.
func TestIdentityFiles(t *testing.T) {
	n := newNode(t)
	s := n.sender()
	d := n.desired()
	d.Spec.Container.User = "1234:1235"
	d.Spec.Identity = &taskpb.Identity{Files: "/certs", Signal: "SIGURG"}
	put := func(task, generation string) error {
		_, err := n.client.PutIdentity(n.ctx(), &rundpb.PutIdentityRequest{TaskId: task, Certificate: []byte("cert " + generation), Key: []byte(canary + generation), Bundle: []byte("roots")})
		return err
	}
	if err := put(d.GetTaskId(), "0"); status.Code(err) != codes.NotFound {
		t.Errorf("of a task that rund does not know: %v", err)
	}
	other := n.desired()
	n.apply(d, other)
	n.await(d.GetTaskId(), "waiting", func(a *rundpb.TaskActual) bool { return strings.Contains(a.GetMessage(), "files of its identity") })
	if err := put(other.GetTaskId(), "0"); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("of a task that wants none: %v", err)
	}
	for name, req := range map[string]*rundpb.PutIdentityRequest{
		"no id":     {TaskId: "../x", Certificate: []byte("c"), Key: []byte("k"), Bundle: []byte("b")},
		"no key":    {TaskId: d.GetTaskId(), Certificate: []byte("c"), Bundle: []byte("b")},
		"too large": {TaskId: d.GetTaskId(), Certificate: make([]byte, maxIdentityFile+1), Key: []byte("k"), Bundle: []byte("b")},
	} {
		if _, err := n.client.PutIdentity(n.ctx(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := put(d.GetTaskId(), "1"); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{d.GetTaskId(), other.GetTaskId()} { // a restart in the middle of a start is another test's
		n.awaitPhase(id, rundpb.Phase_PHASE_RUNNING)
	}
	look := func(generation string) {
		t.Helper()
		if cert, key := s.inside(d, "/certs/tls.crt"), s.inside(d, "/certs/tls.key"); cert != "cert "+generation || key != canary+generation {
			t.Errorf("the files are %q and %q", cert, key)
		}
		var st unix.Stat_t
		if err := unix.Stat("/proc/"+s.pid(d.GetTaskId())+"/root/certs/..data/tls.key", &st); err != nil || st.Uid != n.config.UserNS.Base+1234 || st.Gid != n.config.UserNS.Base+1235 || st.Mode&0o777 != 0o400 {
			t.Errorf("%v, %d:%d %o", err, st.Uid, st.Gid, st.Mode)
		}
	}
	look("1")
	mounts, err := os.ReadFile("/proc/" + s.pid(d.GetTaskId()) + "/mountinfo")
	if err != nil || !strings.Contains(string(mounts), " /certs ro,nosuid,nodev,noexec") {
		t.Errorf("%v: the container's mounts are\n%s", err, mounts)
	}
	if err := put(d.GetTaskId(), "2"); err != nil {
		t.Fatal(err)
	}
	look("2")
	n.restart()
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	n.apply(d)
	look("2")
	if err := put(d.GetTaskId(), "3"); err != nil {
		t.Fatal(err)
	}
	look("3")
	if strings.Contains(n.logs.String(), canary) {
		t.Error("a key is in the log")
	}
	d.Phase = rundpb.Phase_PHASE_STOPPING
	n.apply(d)
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_EXITED)
	if err := put(d.GetTaskId(), "4"); err == nil {
		t.Error("a task that ended was given files")
	}
	if left, _ := filepath.Glob(filepath.Join(n.runDir, "netns", "files-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	bad := n.desired()
	bad.TaskId, bad.Spec.Identity = ident.New(), &taskpb.Identity{Files: "/proc/1"}
	n.apply(bad)
	if a := n.awaitPhase(bad.GetTaskId(), rundpb.Phase_PHASE_FAILED); !a.GetRejected() {
		t.Errorf("files in /proc: %v", a)
	}
}
