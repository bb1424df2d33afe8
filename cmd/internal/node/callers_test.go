package node

import (
	"bytes"
	"context"
	"flag"
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

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
)

var updateTable = flag.Bool("update", false, "write docs/callers.md anew")

const callersPage = "../../../docs/callers.md"

// way is how a service is reached. rund's is a socket of one user and has no
// rules; TestHelperSockets is about it.
var wayOf = map[string]string{
	"redoubt.control.v1.Admission":          pki.ALPNLocal,
	"redoubt.control.v1.Revocation":         pki.ALPNLocal,
	"redoubt.control.v1.Slots":              pki.ALPNLocal,
	"redoubt.control.v1.Unlocking":          pki.ALPNLock,
	"redoubt.control.v1.Shares":             "api.sock",
	"redoubt.pki.v1.Lock":                   pki.ALPNLock,
	"redoubt.pki.v1.Witness":                pki.ALPNWitness,
	"redoubt.scheduler.v1.Dispatcher":       pki.ALPNGRPC,
	"redoubt.scheduler.v1.Delivery":         pki.ALPNGRPC,
	"redoubt.control.v1.Control":            pki.ALPNLocal,
	"redoubt.control.v1.Authority":          pki.ALPNLocal,
	"redoubt.control.v1.Execs":              pki.ALPNLocal,
	"redoubt.control.v1.Secrets":            pki.ALPNLocal,
	"redoubt.control.v1.Access":             pki.ALPNLocal,
	"redoubt.control.v1.Waivers":            pki.ALPNLocal,
	"redoubt.control.v1.Audit":              pki.ALPNLocal,
	"redoubt.control.v1.Approvals":          pki.ALPNLocal,
	"redoubt.control.v1.People":             pki.ALPNLocal,
	"redoubt.pki.v1.PersonRenewal":          pki.ALPNPerson,
	"redoubt.control.v1.Compliance":         pki.ALPNLocal,
	"redoubt.control.v1.ImagePolicy":        pki.ALPNLocal,
	"redoubt.control.v1.Placement":          pki.ALPNLocal,
	"redoubt.control.v1.Volumes":            pki.ALPNLocal,
	"redoubt.control.v1.Bootstrap":          "api.sock",
	"redoubt.control.v1.CallStream":         "api.sock",
	"redoubt.rund.v1.Rund":                  "rund.sock",
	"redoubt.control.v1.Identities":         pki.ALPNLocal,
	"redoubt.scheduler.v1.WorkloadIdentity": pki.ALPNGRPC,
}

func way(service string) string {
	if w, ok := wayOf[service]; ok {
		return w
	}
	if strings.HasPrefix(service, "redoubt.pki.v1.") {
		return pki.ALPNGRPC
	}
	return ""
}

// rpcs are all methods of all services linked into redoubtd, in order.
func rpcs() (out []protoreflect.MethodDescriptor) {
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			if !strings.HasPrefix(string(s.FullName()), "redoubt.") || strings.Contains(string(s.FullName()), "test") {
				continue
			}
			for j := range s.Methods().Len() {
				out = append(out, s.Methods().Get(j))
			}
		}
		return true
	})
	slices.SortFunc(out, func(a, b protoreflect.MethodDescriptor) int {
		return strings.Compare(string(a.FullName()), string(b.FullName()))
	})
	return out
}

func ruleFor(md protoreflect.MethodDescriptor) []authzpb.Caller {
	return proto.GetExtension(md.Options(), authzpb.E_Rule).(*authzpb.Rule).GetCallers()
}

func method(md protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("/%s/%s", md.Parent().FullName(), md.Name())
}

// outcome is what became of a call.
type outcome string

const (
	reached outcome = "yes"     // the handler was reached
	refused outcome = "no"      // the call was refused
	cutOff  outcome = "cut"     // so was the connection
	absent  outcome = "absent"  // that protocol has no such service
	tooBig  outcome = "too big" // the message was refused unread
)

// outcomeOf tells a refusal of the authorizer from an answer of the handler.
func outcomeOf(method string, err error) outcome {
	s := status.Convert(err)
	switch {
	case s.Code() == codes.Unimplemented && strings.Contains(s.Message(), "unknown service"):
		return absent
	case s.Code() == codes.PermissionDenied && strings.HasPrefix(s.Message(), method+" is for "), authz.RefusalOf(err) != nil,
		s.Code() == codes.Unauthenticated:
		return refused
	case s.Code() == codes.Unavailable && !strings.Contains(s.Message(), "leader") && !strings.Contains(s.Message(), "rund.sock"):
		return cutOff
	case s.Code() == codes.ResourceExhausted && strings.Contains(s.Message(), "larger than max"):
		return tooBig
	}
	return reached
}

// invoke makes one call with one message and reads the first answer, or its
// end. What is to be refused is waited for, however slow the machine is. What is
// to be let in may neither end nor say anything: such a call has come in when it
// was given far more time than a refusal needs.
func invoke(t *testing.T, cc grpc.ClientConnInterface, method string, message []byte, want outcome) outcome {
	patience := time.Minute
	if want == reached {
		patience = 3 * time.Second
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, grpc.ForceCodecV2(rawCodec{}))
	if err == nil {
		s.SendMsg(&frame{message}) // RecvMsg has the reason where it fails
		s.CloseSend()
		err = s.RecvMsg(&frame{})
	}
	if status.Code(err) == codes.DeadlineExceeded {
		return reached
	}
	return outcomeOf(method, err)
}

// TestCallerTable calls every RPC as everybody, over real connections, and holds
// what happens against the rule in the RPC's .proto.
func TestCallerTable(t *testing.T) {
	w := newCallerWorld(t)
	callers := w.callers(t)
	type row struct {
		md   protoreflect.MethodDescriptor
		got  []outcome
		want []outcome
	}
	var rows []*row
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for _, md := range rpcs() {
		service := string(md.Parent().FullName())
		switch {
		case way(service) == "":
			t.Errorf("nobody said how %s is reached: add it to wayOf", service)
			continue
		case way(service) == "rund.sock":
			continue
		case len(ruleFor(md)) == 0:
			t.Errorf("%s has no rule", md.FullName())
			continue
		}
		r := &row{md, make([]outcome, len(callers)), make([]outcome, len(callers))}
		rows = append(rows, r)
		for i, c := range callers {
			r.want[i] = c.expect(way(service), ruleFor(md))
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				cc, err := c.dial(t, way(service))
				if err != nil {
					r.got[i] = cutOff
					return
				}
				defer cc.Close()
				r.got[i] = invoke(t, cc, method(md), c.message, r.want[i])
			})
		}
	}
	wg.Wait()
	var table strings.Builder
	for i, c := range callers {
		fmt.Fprintf(&table, "%2d %s\n", i+1, c.name)
	}
	calls := 0
	for _, r := range rows {
		fmt.Fprintf(&table, "%-48s", r.md.FullName()[len("redoubt."):])
		served := false
		for i := range callers {
			served = served || r.got[i] == reached || r.got[i] == tooBig || r.got[i] == refused && !callers[i].local
		}
		for i, c := range callers {
			calls++
			fmt.Fprintf(&table, " %-7s", r.got[i])
			ok := r.got[i] == r.want[i] || r.want[i] == refused && (r.got[i] == cutOff || r.got[i] == absent || r.got[i] == tooBig)
			if !served {
				// Declared and not registered anywhere: nobody reaches it.
				ok = r.got[i] == absent || r.got[i] == cutOff || r.got[i] == refused
			}
			if !ok {
				t.Errorf("%s by %s: %s, want %s", r.md.FullName(), c.name, r.got[i], r.want[i])
			}
		}
		if !served {
			table.WriteString(" (declared, not served)")
		}
		table.WriteByte('\n')
	}
	t.Logf("%d RPCs × %d callers = %d calls\n%s", len(rows), len(callers), calls, &table)
	if len(rows) < 20 {
		t.Errorf("only %d RPCs were found", len(rows))
	}
}

// golden is who may what, written by hand for a reviewer: the test below fails
// where a .proto says otherwise. `*` stands for all methods of a service that
// are not named elsewhere.
var golden = map[authzpb.Caller]string{
	authzpb.Caller_CALLER_ANYONE:             "pki.Join pki.Enrolment",
	authzpb.Caller_CALLER_WORKER:             "pki.Renew scheduler.Dispatcher scheduler.Delivery pki.Membership.Promote scheduler.WorkloadIdentity",
	authzpb.Caller_CALLER_MANAGER:            "pki.Renew scheduler.Dispatcher scheduler.Delivery pki.Lock pki.Witness control.Unlocking scheduler.WorkloadIdentity",
	authzpb.Caller_CALLER_BOOT:               "pki.Lock control.Unlocking",
	authzpb.Caller_CALLER_EXPIRED_WORKER:     "pki.Renew",
	authzpb.Caller_CALLER_DEMOTED_MANAGER:    "pki.Membership.Demoted",
	authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT: "control.Access control.Control control.Execs control.Slots control.Secrets control.Identities control.Authority control.Revocation control.Admission control.Audit control.People control.Compliance control.Waivers control.ImagePolicy control.Approvals control.Placement control.Volumes",
	authzpb.Caller_CALLER_PERSON:             "pki.PersonRenewal control.Access control.Control control.Execs control.Slots control.Secrets control.Identities control.Authority control.Revocation control.Admission control.Audit control.People control.Compliance control.Waivers control.ImagePolicy control.Approvals control.Placement control.Volumes",
	authzpb.Caller_CALLER_LOCAL_USER:         "control.CallStream control.Access control.Control control.Execs control.Slots control.Secrets control.Identities control.Authority control.Revocation control.Admission control.Audit control.People control.Compliance control.Waivers control.ImagePolicy control.Approvals control.Placement control.Volumes",
	authzpb.Caller_CALLER_NODE_LOCAL_ROOT:    "control.Bootstrap control.CallStream control.Shares",
}

// verbsOf says in words which verbs a method has and when.
func verbsOf(md protoreflect.MethodDescriptor) string {
	r := proto.GetExtension(md.Options(), authzpb.E_Rule).(*authzpb.Rule)
	if r.GetOwn() {
		return "(the caller's own)"
	}
	var out []string
	for _, v := range r.GetVerbs() {
		text := "`" + v.GetName() + "`"
		if v.GetFrom() != "" {
			text += fmt.Sprintf(" %s `%s`", v.GetResource(), v.GetFrom())
		}
		if len(v.GetWhen()) > 0 {
			text += " if `" + strings.Join(v.GetWhen(), "`, `") + "`"
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

// TestWhoMayWhat holds the rules against golden and docs/callers.md.
func TestWhoMayWhat(t *testing.T) {
	var page bytes.Buffer
	page.WriteString("# Who may call what\n\nMade from the rules in the `.proto`s by `go test ./cmd/internal/node -run TestWhoMayWhat -update`; a test compares it\nwith them, and `TestCallerTable` calls every one of these as everybody. Whoever is not named is refused.\nThe verbs are what roles and policies speak of, each with the field of the request that names what it is done to; without one it is\nthe cluster. Where there are several, the request decides which of them must be permitted. No verb reads the value of a secret.\n\n| RPC | reached by | callers | verbs |\n|---|---|---|---|\n")
	for _, md := range rpcs() {
		service := string(md.Parent().FullName())
		if way(service) == "rund.sock" {
			continue
		}
		var names []string
		for _, k := range ruleFor(md) {
			names = append(names, strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(k.String(), "CALLER_"), "_", " ")))
			short := strings.Replace(strings.TrimPrefix(string(md.FullName()), "redoubt."), ".v1.", ".", 1)
			if !slices.ContainsFunc(strings.Fields(golden[k]), func(g string) bool { return short == g || strings.HasPrefix(short, g+".") }) {
				t.Errorf("%s admits %s, which the list in this test does not: is that meant?", md.FullName(), k)
			}
		}
		fmt.Fprintf(&page, "| `%s` | %s | %s | %s |\n", strings.TrimPrefix(string(md.FullName()), "redoubt."), way(service), strings.Join(names, ", "), verbsOf(md))
	}
	if *updateTable {
		if err := os.WriteFile(filepath.FromSlash(callersPage), page.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(filepath.FromSlash(callersPage)); err != nil || !bytes.Equal(have, page.Bytes()) {
		t.Errorf("docs/callers.md is not what the .protos say (%v): run the test with -update and look at the difference", err)
	}
}
