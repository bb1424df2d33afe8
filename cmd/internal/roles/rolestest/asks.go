// Package rolestest has what the tests of roles share: a request for everything that
// verbs are for, found in the .protos, so that no RPC and no verb is left out; and
// docs/roles.md, the table of which role permits what, as it is read by people.
package rolestest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
)

// Nothing is what requests name: there is none of that name.
const Nothing = "nothing-of-this-name"

// Ask is a call of the operator API, or of what else the sockets of a manager and the
// protocol of people answer.
type Ask struct {
	Method  string // "/package.Service/Method"
	Callers []authzpb.Caller
	Request proto.Message
	// Verbs are what the request does, sorted; none: it is the caller's own.
	Verbs []string
}

// String is the method and what is asked of it.
func (a Ask) String() string {
	return fmt.Sprintf("%s (%s)", a.Method, strings.Join(a.Verbs, ", "))
}

// asked are those who call by themselves, and not as a node.
var asked = []authzpb.Caller{authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT, authzpb.Caller_CALLER_NODE_LOCAL_ROOT, authzpb.Caller_CALLER_PERSON, authzpb.Caller_CALLER_LOCAL_USER}

// Asks are one request for each verb of each RPC that any of them may call, and an
// empty one where there is no verb. They are sorted.
//
// A cluster is the same after them, whoever makes them: what they name is not there, or
// they lack what their handlers ask for. Beyond that, harmless changes those that would
// do something. But SetAutolock turns autolock off, and on only where every manager has
// heard of that: who made the calls has it turned on again.
func Asks() (out []Ask, err error) {
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				md := s.Methods().Get(j)
				rule, _ := proto.GetExtension(md.Options(), authzpb.E_Rule).(*authzpb.Rule)
				if !slices.ContainsFunc(rule.GetCallers(), func(c authzpb.Caller) bool { return slices.Contains(asked, c) }) {
					continue
				}
				more, e := asksOf(md, rule)
				if e != nil {
					err = errors.Join(err, fmt.Errorf("%s: %w", md.FullName(), e))
				}
				out = append(out, more...)
			}
		}
		return true
	})
	slices.SortFunc(out, func(a, b Ask) int { return strings.Compare(a.String(), b.String()) })
	return out, err
}

func asksOf(md protoreflect.MethodDescriptor, rule *authzpb.Rule) (out []Ask, _ error) {
	method := fmt.Sprintf("/%s/%s", md.Parent().FullName(), md.Name())
	mt, err := protoregistry.GlobalTypes.FindMessageByName(md.Input().FullName())
	if err != nil {
		return nil, err
	}
	add := func(v *authzpb.Verb) error {
		request := mt.New()
		for _, condition := range v.GetWhen() {
			if err := meet(request, condition); err != nil {
				return err
			}
		}
		if v.GetFrom() != "" {
			name(request, strings.Split(v.GetFrom(), "."))
		}
		if bound := harmless[method]; bound != nil {
			bound(request.Interface())
		}
		acts, err := authz.ActsOf(method, request.Interface())
		if err != nil {
			return err
		}
		a := Ask{Method: method, Callers: rule.GetCallers(), Request: request.Interface()}
		for _, act := range acts {
			a.Verbs = append(a.Verbs, act.Verb)
		}
		slices.Sort(a.Verbs)
		a.Verbs = slices.Compact(a.Verbs)
		if v != nil && !slices.Contains(a.Verbs, v.GetName()) {
			return fmt.Errorf("no request was found that does %s", v.GetName())
		}
		if !slices.ContainsFunc(out, func(b Ask) bool { return proto.Equal(a.Request, b.Request) }) {
			out = append(out, a)
		}
		return nil
	}
	if len(rule.GetVerbs()) == 0 {
		return out, add(nil)
	}
	for _, v := range rule.GetVerbs() {
		if err := add(v); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// meet has a condition of a rule, "field=value" or "field!=value", hold for a request.
func meet(request protoreflect.Message, condition string) error {
	field, value, _ := strings.Cut(condition, "=")
	field, not := strings.CutSuffix(field, "!")
	if in, rest, within := strings.Cut(condition, "."); within {
		f := request.Descriptor().Fields().ByName(protoreflect.Name(in))
		if f == nil || f.Message() == nil || f.IsList() {
			return fmt.Errorf("%q is of no field", condition)
		}
		return meet(request.Mutable(f).Message(), rest)
	}
	f := request.Descriptor().Fields().ByName(protoreflect.Name(field))
	switch {
	case f == nil:
		return fmt.Errorf("%q is of no field", condition)
	case f.IsList() && not:
		name(request, []string{field})
	case f.IsList(): // it is empty
	case f.Message() != nil && not:
		request.Set(f, request.NewField(f))
	case f.Kind() == protoreflect.BoolKind:
		request.Set(f, protoreflect.ValueOfBool((value == "true") != not))
	case f.Kind() == protoreflect.EnumKind && !not:
		request.Set(f, protoreflect.ValueOfEnum(f.Enum().Values().ByName(protoreflect.Name(value)).Number()))
	case f.Kind() == protoreflect.Uint32Kind && not:
		request.Set(f, protoreflect.ValueOfUint32(1))
	case f.Kind() == protoreflect.Uint32Kind:
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return err
		}
		request.Set(f, protoreflect.ValueOfUint32(uint32(n)))
	}
	return nil // else it holds of a field that is not set; who asks looks at what came of it
}

// name has a request name something by the field at path.
func name(m protoreflect.Message, path []string) {
	f := m.Descriptor().Fields().ByName(protoreflect.Name(path[0]))
	switch {
	case f.IsList() && f.Message() != nil:
		e := m.Mutable(f).List().AppendMutable().Message()
		if len(path) > 1 {
			name(e, path[1:])
		}
	case f.IsList():
		m.Mutable(f).List().Append(protoreflect.ValueOfString(Nothing))
	case f.Message() != nil:
		in := m.Mutable(f).Message()
		if len(path) > 1 {
			name(in, path[1:])
		}
	default:
		m.Set(f, protoreflect.ValueOfString(Nothing))
	}
}

// harmless changes requests of methods that would do harm.
var harmless = map[string]func(proto.Message){
	// It would replace the issuing CA, or the root: but no certificate lives for a second.
	"/redoubt.control.v1.Authority/RotateCA": func(m proto.Message) { m.(*controlpb.RotateCARequest).WorkerLeafSeconds = 1 },
}

// Call makes the call, and returns how it was answered: nil once there is a message or
// the call ended well, context.DeadlineExceeded's status where nothing came until then.
func (a Ask) Call(ctx context.Context, cc grpc.ClientConnInterface) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, a.Method)
	if err != nil {
		return err
	}
	s.SendMsg(a.Request) // RecvMsg has the reason where it fails
	s.CloseSend()
	if err := s.RecvMsg(&emptypb.Empty{}); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
