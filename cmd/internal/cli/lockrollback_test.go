package cli

import (
	"crypto/ed25519"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/contexts"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/lock"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// TestSignTheWayBack: what managers say a service was is signed anew where a deployer
// signed it once, however long ago, and not where a manager made it up.
func TestSignTheWayBack(t *testing.T) {
	key := lock.NewSigner()
	c, err := lock.New(ident.New(), 1, []*lockpb.Key{lock.PublicKey(key.Public().(ed25519.PublicKey))})
	if err != nil {
		t.Fatal(err)
	}
	if c, err = c.Sign(key); err != nil {
		t.Fatal(err)
	}
	was := spec.Normalize(&schedulerpb.ServiceSpec{Name: "web", Task: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: "web@sha256:" + strings.Repeat("a", 64)}}})
	st, err := lock.Sign(c, &lockpb.Statement{Service: "web", Serial: 5, MaxReplicas: 1, Task: was.Task}, key)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := proto.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	s := &signer{flags: &signFlags{}, chain: c, key: key, now: time.Now, memory: contexts.Deployers{Dir: filepath.Join(t.TempDir(), "lock")}}
	if err := s.memory.RememberSigned(t.Context(), c.Head().GetClusterId(), "web", 6); err != nil {
		t.Fatal(err)
	}
	if st, err := s.signedAs(was, signed); err != nil || st.GetSerial() != 5 {
		t.Errorf("what was signed before the last is not gone back to: %v", err)
	}
	evil := proto.CloneOf(was)
	evil.Task.Container.Command = []string{"sh"}
	floating := proto.CloneOf(was)
	floating.Task.Container.Image = "web:1"
	for name, x := range map[string]struct {
		name   string
		spec   *schedulerpb.ServiceSpec
		signed []byte
		want   string
	}{
		"made up":         {"web", evil, signed, "is not what a deployer signed"},
		"unsigned":        {"web", was, nil, "is not what a deployer signed"},
		"another service": {"db", was, signed, "the managers have web in its place"},
		"no digest":       {"web", floating, signed, "name it by its digest"},
	} {
		req := &controlpb.RollbackServiceRequest{Spec: x.spec}
		if err := s.rollback(t.Context(), nil, x.name, req, x.signed); err == nil || !strings.Contains(err.Error(), x.want) || req.Signed != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
