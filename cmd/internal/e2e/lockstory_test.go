package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// compromised is a directory of binaries, of which redoubtd believes anything.
func compromised(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	all, err := os.ReadDir(binDir)
	if err != nil {
		t.Fatal(err)
	}
	from, err := filepath.Abs(binDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if e.Name() == "redoubtd" {
			continue
		}
		if err := os.Symlink(filepath.Join(from, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-tags", "redoubt_compromised", "-o", filepath.Join(dir, "redoubtd"), "./cmd/redoubtd")
	build.Dir = filepath.Join("..", "..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

type lockStory struct {
	*cluster
	dir   string // of the deployers' machine
	image string // with its digest
	first []byte // what web was signed as first
	old   *schedulerpb.ServiceSpec
}

// deploy runs redoubt on the deployers' machine, by the API of the manager.
func (s *lockStory) deploy(args ...string) result { s.t.Helper(); return s.as("manager-1", args...) }

func (s *lockStory) as(host string, args ...string) result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, "redoubt"), append([]string{"--host", "unix://" + filepath.Join(s.host(host).RunDir, "api.sock")}, args...)...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+s.dir)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // its code tells
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

func (s *lockStory) done(args ...string) string {
	s.t.Helper()
	r := s.deploy(args...)
	if r.code != 0 {
		s.t.Fatalf("redoubt %v: %v", args, r)
	}
	return strings.TrimSpace(r.stdout)
}

func (s *lockStory) deployers() {
	i, err := age.GenerateX25519Identity()
	if err != nil {
		s.t.Fatal(err)
	}
	file := filepath.Join(s.dir, "age.key")
	if err := os.WriteFile(file, []byte(i.String()+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	var status struct {
		Node struct {
			ClusterID string `json:"cluster_id"`
		} `json:"node"`
	}
	s.decode(s.ok("manager-1", "status", "--format", "json"), &status)
	args := []string{"lock", "chain", "create", "--cluster", status.Node.ClusterID, "--threshold", "2"}
	for _, name := range []string{"ann", "bob", "cid"} {
		args = append(args, "--key", s.done("lock", "key", "create", name, "--age-identity", file))
	}
	s.done(args...)
	s.done("lock", "chain", "sign", "--with", "ann")
	if r := s.as("worker-1", "lock", "trust", s.chain()); r.code != 1 || !strings.Contains(r.stderr, "lacks 1 of the signatures") {
		s.t.Errorf("a node takes a chain that lacks a signature: %v", r)
	}
	s.done("lock", "chain", "sign", "--with", "cid")
	s.done("lock", "chain", "show")

	s.ok("manager-1", "service", "create", "--name", "early", "--constraint", "node.hostname==worker-1", image)
	s.image = image + "@" + s.spec("early").GetTask().GetContainer().GetDigest()
}

func (s *lockStory) chain() string { return filepath.Join(s.dir, "redoubt", "lock", "chain") }

func (s *lockStory) client() *apiclient.Client {
	s.t.Helper()
	c, err := apiclient.Dial(s.t.Context(), filepath.Join(s.host("manager-1").RunDir, "api.sock"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

func (s *lockStory) service(name string) *schedulerpb.Service {
	s.t.Helper()
	r, err := s.client().ListServices(s.t.Context(), &controlpb.ListServicesRequest{Services: []string{name}})
	if err != nil || len(r.GetServices()) != 1 {
		s.t.Fatal(err)
	}
	return r.GetServices()[0].GetService()
}

func (s *lockStory) spec(name string) *schedulerpb.ServiceSpec {
	s.t.Helper()
	return s.service(name).GetSpec()
}

// store has the manager keep whatever is given.
func (s *lockStory) store(name string, sp *schedulerpb.ServiceSpec, signed []byte) {
	s.t.Helper()
	for {
		svc := s.service(name)
		_, err := s.client().UpdateService(s.t.Context(), &controlpb.UpdateServiceRequest{Service: svc.GetId(), Version: svc.GetMeta().GetVersion(), Spec: sp, Signed: signed})
		switch {
		case err == nil:
			return
		case apierr.ReasonOf(err) != apierr.ReasonConflict: // how far an update is was written meanwhile
			s.t.Fatal(err)
		}
	}
}

// refuses waits until the worker says no by that rule to a task of the service that do
// brings about, and looks that no such task runs.
func (s *lockStory) refuses(service, rule string, do func()) {
	s.t.Helper()
	before := map[string]bool{}
	if s.on("manager-1", "service", "inspect", service).code == 0 {
		for _, t := range s.tasks("manager-1", service) {
			before[t.ID] = true
		}
	}
	do()
	want := "deployment lock, rule " + rule
	eventually(s.t, time.Minute, func() string {
		var said []string
		for _, t := range s.tasks("manager-1", service) {
			if !before[t.ID] && strings.Contains(t.Error, want) {
				return ""
			}
			said = append(said, fmt.Sprintf("%s %s %s %q", t.Node, t.State, t.Desired, t.Error))
		}
		return fmt.Sprintf("no new task of %s says %q: %v", service, want, said)
	})
	for _, t := range s.tasks("manager-1", service) {
		if !before[t.ID] && t.State == "running" {
			s.t.Errorf("%s runs", t.ID)
		}
	}
}

// asRedoubtd runs redoubt on the worker as the user that its redoubtd has.
func (s *lockStory) asRedoubtd(args ...string) result {
	s.t.Helper()
	sock := filepath.Join(s.host("worker-1").RunDir, "rund.sock")
	fi, err := os.Stat(sock)
	if err != nil {
		s.t.Fatal(err)
	}
	uid := fi.Sys().(*syscall.Stat_t).Uid
	if uid == 0 {
		s.t.Fatal("rund's socket is root's: redoubtd would have no user of its own")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "program") // the one that is built may lie where that user cannot see it
	if err == nil {
		s.t.Cleanup(func() { os.RemoveAll(dir) })
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	program := filepath.Join(dir, "program")
	b, err := os.ReadFile(filepath.Join(binDir, "redoubt"))
	if err == nil {
		err = os.WriteFile(program, b, 0o755)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, program, append([]string{"--host", "unix://" + filepath.Join(s.host("worker-1").RunDir, "api.sock")}, args...)...)
	cmd.Dir, cmd.Env = "/", append(os.Environ(), "XDG_CONFIG_HOME=/nonexistent")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}
