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

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

const rolesPage = "../../../docs/roles.md"

// TestVerbsByRole has a person of every role, and one of none, make every call of the
// operator API over connections of their own, and holds what happens against what the
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
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	asked := 0
	for _, md := range rpcs() {
		if !slices.Contains(ruleFor(md), authzpb.Caller_CALLER_PERSON) || way(string(md.Parent().FullName())) != pki.ALPNLocal {
			continue
		}
		acts, err := authz.ActsOf(method(md), emptyRequest(t, md))
		if err != nil {
			t.Fatal(err)
		}
		for _, role := range names {
			want := !slices.ContainsFunc(acts, func(a authz.Act) bool { return !slices.Contains(permits[role], a.Verb) })
			asked++
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				if got := permitted(t, conns[role], md); got != want {
					t.Errorf("%s by somebody with role %q: permitted %t, want %t", md.FullName(), role, got, want)
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

func emptyRequest(t *testing.T, md protoreflect.MethodDescriptor) proto.Message {
	mt, err := protoregistry.GlobalTypes.FindMessageByName(md.Input().FullName())
	if err != nil {
		t.Fatal(err)
	}
	return mt.New().Interface()
}

// permitted reports whether a call with an empty request came as far as its handler.
func permitted(t *testing.T, cc closerConn, md protoreflect.MethodDescriptor) bool {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method(md), grpc.ForceCodecV2(rawCodec{}))
	if err == nil {
		s.SendMsg(&frame{}) // RecvMsg has the reason where it fails
		s.CloseSend()
		err = s.RecvMsg(&frame{})
	}
	return status.Code(err) != codes.PermissionDenied
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
` + "`" + `break-glass` + "`" + ` is no role that anybody is given: it is what local root of one manager may after ` + "`" + `redoubt break-glass` + "`" + `, for a minute to four hours. Until somebody who
was security-admin before it acknowledges it, what changes something and is not in its column is for those people alone, whatever roles and policies say since
([decision 110](decisions/0110-local-users-and-break-glass.md)). Breaking the glass, ending and acknowledging it are judged by no policy and are nobody's verbs.
`

// checkRolesPage holds docs/roles.md against the roles.
func checkRolesPage(t *testing.T, permits map[string][]string) {
	var b strings.Builder
	b.WriteString("# Which role permits what\n\nMade from the built-in roles by `go test ./cmd/internal/node -run TestVerbsByRole -update`, which makes every call as somebody of each\nrole, over a connection. No verb reads the value of a secret.\n\n| verb |")
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
