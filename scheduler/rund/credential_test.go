package rund

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/secrets/credential"
	"github.com/redoubt-cluster/redoubt/secrets/seal"
)

// TestRegistryCredential: a private image is got with what the task's service shows its
// registry; that is in no file, container or log, and for that registry alone.
func TestRegistryCredential(t *testing.T) {
	const password = canary + "-password"
	host, ca, push := testRegistryAs(t, "robot", password)
	img, err := mutateEnv(probeImage, "FROM=private")
	if err != nil {
		t.Fatal(err)
	}
	digest := push("app/private:1", img)
	n := newNode(t, func(c *Config) { c.Registries = map[string]image.Registry{host: {CAFile: ca}} })
	s := n.sender()
	auth := ident.New()
	private := func() *rundpb.TaskDesired {
		d := n.desired()
		d.Spec.Container.Image, d.Spec.Container.Digest = host+"/app/private:1", digest
		return d
	}

	without := private()
	n.apply(without)
	if a := n.awaitPhase(without.GetTaskId(), rundpb.Phase_PHASE_FAILED); !a.GetRejected() || !strings.Contains(a.GetError(), "the registry refuses access") {
		t.Errorf("without a credential: %v", a)
	}
	encoded := func(registry, password string) string {
		b, err := credential.Encode(registry, "robot", []byte(password))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for text, want := range map[string]string{
		encoded(host, "wrong"):              "the registry refuses access",
		encoded("elsewhere.test", password): `the credential is for the registry "elsewhere.test"`,
	} {
		d := private()
		d.Spec.Container.RegistryAuth = auth
		n.apply(d)
		s.wants(d)
		if err := s.deliver(d, s.secret(d, auth, "hub", seal.KindRegistry, text)); err != nil {
			t.Fatal(err)
		}
		if a := n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_FAILED); !a.GetRejected() || !strings.Contains(a.GetError(), want) {
			t.Errorf("%v, want %q", a, want)
		}
	}

	d := private()
	d.Spec.Container.RegistryAuth = auth
	n.apply(d)
	s.wants(d)
	if err := s.deliver(d, s.secret(d, auth, "hub", seal.KindRegistry, "no credential "+password)); status.Code(err) != codes.FailedPrecondition || strings.Contains(err.Error(), password) {
		t.Errorf("a malformed credential: %v", err)
	}
	// One of a development build says what to do, and another version is then taken.
	if err := s.deliver(d, s.secret(d, auth, "hub", seal.KindRegistry, `{"registry":"`+host+`","username":"robot","password":"`+password+`"}`)); status.Code(err) != codes.FailedPrecondition ||
		strings.Contains(err.Error(), password) || !strings.Contains(err.Error(), "secret hub: ") || !strings.Contains(err.Error(), "redoubt secret update --registry") {
		t.Errorf("a credential of a development build: %v", err)
	}
	if err := s.deliver(d); err == nil {
		t.Error("a delivery without the credential is taken")
	}
	good := s.secret(d, auth, "hub", seal.KindRegistry, encoded(host, password))
	if err := s.deliver(d, good); err != nil {
		t.Fatal(err)
	}
	if a := n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING); len(a.GetFiles()) > 0 {
		t.Errorf("the task has %v", a.GetFiles())
	}
	n.server.mu.Lock()
	w := n.server.workers[d.GetTaskId()]
	n.server.mu.Unlock()
	if w.shows() != nil {
		t.Error("the credential is kept once the image is there")
	}
	out, _ := exec.Command("grep", "-rlsa", password, n.runDir, filepath.Join(ctrd.Dir, "root")).Output()
	if len(out) > 0 || strings.Contains(n.logs.String(), password) {
		t.Errorf("the password is in the log, or in %s", out)
	}
}
