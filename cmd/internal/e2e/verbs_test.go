package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/roles/rolestest"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// verbsCaller is somebody who does everything that verbs are for.
type verbsCaller struct {
	name   string // as the audit log has it
	column string // of docs/roles.md; empty: no role
	kinds  []authzpb.Caller
	conn   grpc.ClientConnInterface

	denied int // refusals that the audit log must have
}

// TestVerbs holds a cluster of the built binaries against docs/roles.md: a person of
// every built-in role and one of none at port 2377 of a manager that leads and of one
// that does not, a user of group redoubt and root at local sockets make every call of
// the operator API that does what a verb is for. What the page has no yes for is refused
// with the verb's name and counted in the audit log, and nothing else is. A worker's
// certificate, a manager's and a person's of another cluster, and who has none reach
// nothing of it, by any protocol.
func TestVerbs(t *testing.T) {
	t.Parallel()
	table, err := rolestest.ReadTable(filepath.Join("..", "..", "..", "docs", "roles.md"))
	if err != nil {
		t.Fatal(err)
	}
	asks, err := rolestest.Asks()
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range table.Verbs {
		if !slices.ContainsFunc(asks, func(a rolestest.Ask) bool { return slices.Contains(a.Verbs, verb) }) {
			t.Errorf("nothing that is asked is %s", verb)
		}
	}
	c := up(t, "verbs", 2, 1)
	leader, follower := c.leader("manager-1"), "manager-1"
	if leader == follower {
		follower = "manager-2"
	}
	var callers []*verbsCaller
	const person, user = authzpb.Caller_CALLER_PERSON, authzpb.Caller_CALLER_LOCAL_USER
	for i, column := range append([]string{""}, table.Columns...) {
		if column == "break-glass" {
			continue
		}
		name := strings.TrimSuffix("verbs-"+column, "-")
		p := c.enrol(leader, name)
		p.Managers = []string{c.addr2377([]string{leader, follower}[i%2])}
		cc, err := port.DialPerson(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		callers = append(callers, &verbsCaller{name: "person " + name, column: column, kinds: []authzpb.Caller{person}, conn: cc})
	}
	callers = append(callers,
		&verbsCaller{name: "user daemon of node " + c.nodeID(follower), column: "deployer", kinds: []authzpb.Caller{user}, conn: c.dialUser(follower, 1)},
		&verbsCaller{name: "local root of node " + c.nodeID(leader), column: "operator", conn: c.dialRoot(leader),
			kinds: []authzpb.Caller{authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT, authzpb.Caller_CALLER_NODE_LOCAL_ROOT}})
	c.ok(leader, "auth", "bind", "deployer", "user:daemon@"+follower)
	for _, o := range callers { // security-admin is the last: after it root is none
		if o.kinds[0] == person && o.column != "" {
			c.ok(leader, "auth", "bind", o.column, o.name[:6]+":"+o.name[7:])
		}
	}

	slots := c.ok(leader, "unlock-key", "slot", "ls", "-q")
	began := time.Now()
	var wg sync.WaitGroup
	for _, o := range callers {
		wg.Go(func() { o.askAll(t, table, asks) })
	}
	wg.Go(func() { c.outsiders(t, leader, asks) })
	wg.Wait()
	t.Logf("all asked after %v", time.Since(began).Round(100*time.Millisecond))
	with := func(column string) *verbsCaller {
		return callers[slices.IndexFunc(callers, func(o *verbsCaller) bool { return o.column == column })]
	}
	eventually(t, time.Minute, func() string { return with("security-admin").turnsOn(t) })
	eventually(t, 90*time.Second, func() string { return with("auditor").missing(t, callers) })
	// What was asked did nothing: who leads, and what unlocks, is as before.
	if now := c.leader(leader); now != leader {
		t.Errorf("%s leads, and not %s", now, leader)
	}
	if now := c.ok(leader, "unlock-key", "slot", "ls", "-q"); now != slots {
		t.Errorf("slots afterwards:\n%s\nbefore:\n%s", now, slots)
	}
	if out := c.ok(leader, "node", "ls", "-q"); strings.Count(out, "\n") != 3 {
		t.Errorf("nodes afterwards:\n%s", out)
	}
}

// enrol makes somebody who is invited on that host, and comes from this machine.
func (c *cluster) enrol(host, name string) *pki.Person {
	c.t.Helper()
	inv, err := pki.ParseInvitation(strings.TrimSpace(c.ok(host, "person", "invite", "-q", name)))
	if err != nil {
		c.t.Fatal(err)
	}
	p, err := pki.TakeInvitation(c.t.Context(), inv)
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

// askAll makes every call, one after the other, and holds what happens against the table.
func (o *verbsCaller) askAll(t *testing.T, table rolestest.Table, asks []rolestest.Ask) {
	let := 0
	for _, ask := range asks {
		mine := slices.ContainsFunc(o.kinds, func(k authzpb.Caller) bool { return slices.Contains(ask.Callers, k) })
		missing := table.Denied(o.column, ask.Verbs)
		patience := 20 * time.Second
		if mine && len(missing) == 0 {
			patience = 2 * time.Second // what waits for something to happen was let in
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := ask.Call(ctx, o.conn)
		cancel()
		said := status.Convert(err)
		// A protocol that has no such service, or a handler that refuses as the authorizer
		// does, is told from the authorizer by its words.
		absent := said.Code() == codes.Unimplemented && strings.Contains(said.Message(), "unknown service")
		if said.Code() == codes.PermissionDenied {
			o.denied++
		}
		switch {
		case !mine:
			if !absent && (said.Code() != codes.PermissionDenied || !strings.HasPrefix(said.Message(), ask.Method+" is for ")) {
				t.Errorf("%s by %s, whom it is not for: %v", ask, o.name, said)
			}
		case len(missing) > 0:
			if said.Code() != codes.PermissionDenied || !slices.ContainsFunc(missing, func(v string) bool { return strings.Contains(said.Message(), " may not "+v+" on ") }) {
				t.Errorf("%s by %s with role %q, which docs/roles.md denies: %v", ask, o.name, o.column, said)
			}
		default:
			if let++; said.Code() == codes.PermissionDenied || said.Code() == codes.Unauthenticated || said.Code() == codes.Unavailable || absent {
				t.Errorf("%s by %s with role %q, which docs/roles.md permits: %v", ask, o.name, o.column, said)
			}
		}
	}
	t.Logf("%s as %q: %d calls, %d let in, %d denied", o.name, o.column, len(asks), let, o.denied)
}

// turnsOn has autolock turned on again, and says why it is not.
func (o *verbsCaller) turnsOn(t *testing.T) string {
	s, err := controlpb.NewSlotsClient(o.conn).SetAutolock(t.Context(), &controlpb.SetAutolockRequest{On: true})
	for err == nil {
		_, err = s.Recv()
	}
	if errors.Is(err, io.EOF) || strings.Contains(err.Error(), "autolock is on already") {
		return ""
	}
	return err.Error()
}

// missing says for whom the audit log has not as many refusals as there were: some are
// counted until the minute's end.
func (o *verbsCaller) missing(t *testing.T, callers []*verbsCaller) string {
	have, named := map[string]int{}, map[string]bool{}
	log := controlpb.NewAuditClient(o.conn)
	for from, size := uint64(0), uint64(1); from < size; {
		r, err := log.ListRecords(t.Context(), &controlpb.ListRecordsRequest{From: from, Count: 1000})
		if err != nil {
			return err.Error()
		}
		for _, v := range r.GetRecords() {
			rec := &auditpb.Record{}
			if err := proto.Unmarshal(v.GetRecord(), rec); err != nil {
				t.Fatal(err)
			}
			if from = v.GetNumber() + 1; rec.GetOutcome() == auditpb.Outcome_OUTCOME_DENIED {
				who := rec.GetCaller().GetName()
				have[who] += int(max(rec.GetTimes(), 1))
				named[who] = named[who] || strings.Contains(rec.GetReason(), " may not ")
			}
		}
		size = r.GetSize()
	}
	var out []string
	for _, o := range callers {
		if have[o.name] != o.denied || !named[o.name] {
			out = append(out, fmt.Sprintf("%s: %d refusals in the audit log, want %d (a verb is named: %t)", o.name, have[o.name], o.denied, named[o.name]))
		}
	}
	if len(out) > 0 {
		out = append(out, fmt.Sprint(have))
	}
	return strings.Join(out, "; ")
}

// outsiders have every call be made by who is nobody to the operator API.
func (c *cluster) outsiders(t *testing.T, host string, asks []rolestest.Ask) {
	a := &attack{cluster: c, from: host}
	foreign := pkitest.New(t)
	key, err := pki.NewKey()
	if err != nil {
		t.Error(err)
		return
	}
	chain, err := foreign.IssuePerson("verbs-security-admin", key.Public(), time.Now(), time.Hour)
	if err != nil {
		t.Error(err)
		return
	}
	stranger := &tls.Certificate{Certificate: chain.GetCertificates(), PrivateKey: key}
	worker, manager := a.stolen(t, "worker-1", "leaf"), foreign.NewNode(t, profilepb.Role_ROLE_MANAGER).Credentials
	shows := map[string]func(alpn string) *tls.Config{
		"a worker":                     func(alpn string) *tls.Config { return anyone(worker, alpn) },
		"a manager of another cluster": func(alpn string) *tls.Config { return anyone(manager, alpn) },
		"a person of another cluster": func(alpn string) *tls.Config {
			cfg := anyone(nil, alpn)
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return stranger, nil }
			return cfg
		},
		"nobody": func(alpn string) *tls.Config { return anyone(nil, alpn) },
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, show := range shows {
		for _, alpn := range []string{authz.ALPNGRPC, authz.ALPNLocal, authz.ALPNUser, authz.ALPNPerson} {
			wg.Go(func() { c.reachesNothing(t, host, name, alpn, show(alpn), asks) })
		}
	}
}

// reachesNothing has every call be made over connections of one kind. Where the
// connection is refused, what it is for was not said yet: then one call of each service
// is enough.
func (c *cluster) reachesNothing(t *testing.T, host, name, alpn string, cfg *tls.Config, asks []rolestest.Ask) {
	answers, refused := map[codes.Code]int{}, ""
	var cc *pki.GRPCConn
	for _, ask := range asks {
		service, _, _ := strings.Cut(ask.Method[1:], "/")
		if service == refused {
			continue
		}
		var err error
		if cc == nil {
			cc, err = dial(t, c.addr2377(host), cfg)
		}
		code := codes.Unavailable
		if err == nil {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			err = ask.Call(ctx, cc)
			cancel()
			code = status.Code(err)
		}
		answers[code]++
		switch {
		case code == codes.Unavailable:
			cc, refused = nil, service
		case code == codes.Unauthenticated, code == codes.PermissionDenied, code == codes.Unimplemented && strings.Contains(err.Error(), "unknown service"):
		default:
			t.Errorf("%s by %s over %s: %v", ask, name, alpn, err)
		}
	}
	t.Logf("%s over %s: %v", name, alpn, answers)
}

// dialRoot connects to root's socket of a host.
func (c *cluster) dialRoot(host string) grpc.ClientConnInterface {
	return c.dialSocket(func() (net.Conn, error) { return net.Dial("unix", filepath.Join(c.host(host).RunDir, "api.sock")) })
}

// dialUser connects to the socket for users of a host as that user, who is in its group.
func (c *cluster) dialUser(host string, uid int) grpc.ClientConnInterface {
	path := filepath.Join(c.host(host).RunDir, "users.sock")
	fi, err := os.Stat(path)
	if err != nil {
		c.t.Fatal(err)
	}
	gid := int(fi.Sys().(*syscall.Stat_t).Gid)
	return c.dialSocket(func() (net.Conn, error) { return connectAs(path, uid, gid) })
}

func (c *cluster) dialSocket(connect func() (net.Conn, error)) grpc.ClientConnInterface {
	c.t.Helper()
	cc, err := grpc.NewClient("passthrough:///local", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return connect() }))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { cc.Close() })
	return cc
}

// connectAs connects to a unix socket as a user: the kernel writes down who connects,
// whoever has the socket after that.
func connectAs(path string, uid, gid int) (net.Conn, error) {
	type connected struct {
		conn net.Conn
		err  error
	}
	done := make(chan connected, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		conn, err := func() (net.Conn, error) {
			g, u := uintptr(gid), uintptr(uid)
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, g, g, g); e != 0 {
				return nil, e
			}
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, u, u, u); e != 0 {
				return nil, e
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return nil, err
			}
			f := os.NewFile(uintptr(fd), path)
			defer f.Close()
			if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
				return nil, err
			}
			return net.FileConn(f)
		}()
		done <- connected{conn, err}
	}()
	c := <-done
	if c.err != nil {
		return nil, fmt.Errorf("connect to %s as uid %d: %w", path, uid, c.err)
	}
	return c.conn, nil
}
