package node

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/cmd/internal/roles/rolestest"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

const rolesPage = "../../../docs/roles.md"

// TestVerbsByRole has a person of every role, and one of none, do everything that verbs
// are for by every call of the operator API over connections of their own, and holds what happens against what the
// role permits and docs/roles.md says.
func TestVerbsByRole(t *testing.T) {
	w := newCallerWorld(t)
	names := append(slices.Clone(roles.BuiltinNames), "")
	permits := map[string][]string{}
	conns := map[string]closerConn{}
	for _, role := range names {
		name := "with-" + role
		if role == "" {
			name = "without"
		}
		cert := w.person(t, w.ca, name, time.Now(), nil)
		if role != "" {
			w.update(t, func(tx *raftstore.Tx) error {
				_, err := roles.Bind(tx, role, roles.Principal{Kind: pkipb.Principal_KIND_PERSON, Name: name}, nil)
				return err
			})
		}
		cc, err := w.dialPerson(t, cert)
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		conns[role] = cc
	}
	if err := w.m.store.View(func(r *raftstore.ReadTx) error {
		set, err := w.m.roles.Set(r)
		if err != nil {
			return err
		}
		for _, role := range set.Roles() {
			permits[role.Name] = role.Verbs
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	asks, err := rolestest.Asks()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	asked := 0
	for _, ask := range asks {
		if service, _, _ := strings.Cut(ask.Method[1:], "/"); !slices.Contains(ask.Callers, authzpb.Caller_CALLER_PERSON) || way(service) != pki.ALPNLocal {
			continue
		}
		for _, role := range names {
			want := !slices.ContainsFunc(ask.Verbs, func(v string) bool { return !slices.Contains(permits[role], v) })
			asked++
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				if got := status.Code(ask.Call(ctx, conns[role])) != codes.PermissionDenied; got != want {
					t.Errorf("%s by somebody with role %q: permitted %t, want %t", ask, role, got, want)
				}
			})
		}
	}
	wg.Wait()
	t.Logf("%d calls", asked)
	if asked < 400 {
		t.Errorf("only %d calls were made", asked)
	}
	checkRolesPage(t, permits)
}

// dialPerson connects as that person.
func (w *callerWorld) dialPerson(t *testing.T, cert *tls.Certificate) (closerConn, error) {
	cfg := w.m.creds.ClientConfig(pki.ALPNPerson, "")
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	conn, err := pki.DialTLS(t.Context(), w.addr, cfg)
	if err != nil {
		return nil, err
	}
	return pki.GRPCOver(conn)
}

const rolesPageEnd = `
Who has no role may what is the caller's own, as to ask who it is, and nothing else. Users of a manager's machine have the roles that they were given,
as people have them. Local root of a manager may what operator may, and what security-admin may for as long as there is no person who is and can call. The
certificate of a node, one of another cluster and none at all may nothing of this.

Of a job that has capabilities, devices or another filter of system calls, or a priority, a run needs ` + "`" + `service.privileged` + "`" + ` or ` + "`" + `service.prioritize` + "`" + ` besides
` + "`" + `service.run` + "`" + `, and so does whoever has its schedule count again: it is judged by what the job is, as a change of it would be.

` + "`" + `break-glass` + "`" + ` is no role that anybody is given: it is what local root of one manager may after ` + "`" + `redoubt break-glass` + "`" + `, for a minute to four hours. Until somebody who
was security-admin before it acknowledges it, what changes something and is not in its column is for those people alone, whatever roles and policies say since
([decision 110](decisions/0110-local-users-and-break-glass.md)). Breaking the glass, ending and acknowledging it are judged by no policy and are nobody's verbs.
`

// checkRolesPage holds docs/roles.md against the roles.
func checkRolesPage(t *testing.T, permits map[string][]string) {
	var b strings.Builder
	b.WriteString("# Which role permits what\n\nMade from the built-in roles by `go test ./cmd/internal/node -run TestVerbsByRole -update`, which does each as somebody of each role,\nover a connection; `TestVerbs` has the built binaries of a cluster do as this page says. No verb reads the value of a secret.\n\n| verb |")
	broken, err := roles.BrokenVerbs()
	if err != nil {
		t.Fatal(err)
	}
	permits[roles.BreakGlass] = broken
	columns := append(slices.Clone(roles.BuiltinNames), roles.BreakGlass)
	for _, role := range columns {
		b.WriteString(" " + role + " |")
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(columns)) + "\n")
	verbs, err := roles.Verbs()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range verbs {
		fmt.Fprintf(&b, "| `%s` |", v)
		for _, role := range columns {
			if slices.Contains(permits[role], v) {
				b.WriteString(" yes |")
			} else {
				b.WriteString(" |")
			}
		}
		b.WriteString("\n")
	}
	b.WriteString(rolesPageEnd)
	if *updateTable {
		if err := os.WriteFile(filepath.FromSlash(rolesPage), []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(filepath.FromSlash(rolesPage)); err != nil || string(have) != b.String() {
		t.Errorf("docs/roles.md is not what the roles say (%v): run the test with -update and look at the difference", err)
	}
}
