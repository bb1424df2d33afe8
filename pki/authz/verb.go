package authz

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
)

// Act is one thing that a call does: a verb, and to what.
type Act struct {
	Verb string
	// Kind is the kind of the resource, one of Kinds; empty: the cluster.
	Kind string
	// Ref is its name, id or beginning of an id, as the caller wrote it. Empty:
	// the cluster, or what is to be as Spec says.
	Ref string
	// Spec is what the resource is to be; nil: it exists.
	Spec proto.Message
}

// Kinds are the kinds of resources that verbs name.
var Kinds = []string{"Service", "Node", "Config", "Secret", "Network", "NetworkPolicy", "Volume"}

var verbName = regexp.MustCompile(`^[a-z]+\.[a-z]+(-[a-z]+)*$`)

// verb is an authzpb.Verb whose paths were found in the request's descriptor.
type verb struct {
	name, kind string
	from       []protoreflect.FieldDescriptor
	each       bool
	when       []condition
}

type condition struct {
	in    []protoreflect.FieldDescriptor // messages that the field is in
	field protoreflect.FieldDescriptor
	value string
	not   bool
}

func compileVerbs(request protoreflect.MessageDescriptor, declared []*authzpb.Verb) (out []verb, _ error) {
	for _, d := range declared {
		v := verb{name: d.GetName(), kind: d.GetResource(), each: d.GetEach()}
		if !verbName.MatchString(v.name) {
			return nil, fmt.Errorf("%q is not the name of a verb", v.name)
		}
		if v.kind != "" && !slices.Contains(Kinds, v.kind) {
			return nil, fmt.Errorf("verb %s: there is no kind of resource %q", v.name, v.kind)
		}
		if (v.kind == "") != (d.GetFrom() == "") || v.each && v.kind == "" {
			return nil, fmt.Errorf("verb %s: a kind of resource and the field that names it go together", v.name)
		}
		var err error
		if v.kind != "" {
			if v.from, err = fieldPath(request, d.GetFrom()); err != nil {
				return nil, fmt.Errorf("verb %s: %w", v.name, err)
			}
		}
		for _, w := range d.GetWhen() {
			c, err := compileCondition(request, w)
			if err != nil {
				return nil, fmt.Errorf("verb %s: %w", v.name, err)
			}
			v.when = append(v.when, c)
		}
		out = append(out, v)
	}
	return out, nil
}

// fieldPath finds "a.b.c": messages, the last one a string or a message with a
// name and labels; any of them may be repeated.
func fieldPath(in protoreflect.MessageDescriptor, path string) (out []protoreflect.FieldDescriptor, _ error) {
	for _, name := range strings.Split(path, ".") {
		if in == nil {
			return nil, fmt.Errorf("%s has no fields", path)
		}
		f := in.Fields().ByName(protoreflect.Name(name))
		if f == nil || f.IsMap() {
			return nil, fmt.Errorf("the request has no field %s", path)
		}
		out, in = append(out, f), f.Message()
	}
	if last := out[len(out)-1]; last.Kind() != protoreflect.StringKind && (in == nil || in.Fields().ByName("name") == nil || in.Fields().ByName("labels") == nil) {
		return nil, fmt.Errorf("field %s names no resource", path)
	}
	return out, nil
}

func compileCondition(request protoreflect.MessageDescriptor, text string) (condition, error) {
	name, value, ok := strings.Cut(text, "=")
	name, not := strings.CutSuffix(name, "!")
	c := condition{value: value, not: not}
	at := request
	for path := strings.Split(name, "."); ok; path = path[1:] {
		f := at.Fields().ByName(protoreflect.Name(path[0]))
		if f == nil || f.IsMap() {
			break
		}
		if len(path) == 1 {
			c.field = f
			break
		}
		if at = f.Message(); at == nil || f.IsList() {
			break
		}
		c.in = append(c.in, f)
	}
	f := c.field
	switch {
	case f == nil:
		return condition{}, fmt.Errorf("%q is no condition on a field of the request", text)
	case f.IsList(), f.Message() != nil:
		ok = value == ""
	case f.Kind() == protoreflect.BoolKind:
		ok = value == "true" || value == "false"
	case f.Kind() == protoreflect.EnumKind:
		ok = f.Enum().Values().ByName(protoreflect.Name(value)) != nil
	default:
		ok = f.Kind() == protoreflect.Uint32Kind && value == "0"
	}
	if !ok {
		return condition{}, fmt.Errorf("%q is no value of the field", text)
	}
	return c, nil
}

func (c condition) holds(m protoreflect.Message) bool {
	for _, f := range c.in {
		m = m.Get(f).Message()
	}
	if c.field.IsList() || c.field.Message() != nil {
		return m.Has(c.field) == c.not
	}
	v := m.Get(c.field)
	text := v.String()
	if c.field.Kind() == protoreflect.EnumKind {
		if d := c.field.Enum().Values().ByNumber(v.Enum()); d != nil {
			text = string(d.Name())
		}
	}
	return (text == c.value) != c.not
}

// acts are what a request of this rule does, each once.
func (r *rule) acts(request proto.Message) (out []Act, _ error) {
	m := request.ProtoReflect()
	for _, v := range r.verbs {
		if slices.ContainsFunc(v.when, func(c condition) bool { return !c.holds(m) }) {
			continue
		}
		before := len(out)
		if v.kind != "" {
			out = collect(out, v, m, v.from)
		}
		if len(out) == before && !v.each {
			out = append(out, Act{Verb: v.name})
		}
	}
	if len(r.verbs) > 0 && len(out) == 0 {
		return nil, errors.New("the request does nothing that a rule has a verb for, so it is refused to everybody")
	}
	return unique(out), nil
}

func collect(out []Act, v verb, m protoreflect.Message, path []protoreflect.FieldDescriptor) []Act {
	f := path[0]
	one := func(value protoreflect.Value) {
		switch {
		case len(path) > 1:
			out = collect(out, v, value.Message(), path[1:])
		case f.Message() != nil:
			out = append(out, Act{Verb: v.name, Kind: v.kind, Spec: value.Message().Interface()})
		case value.String() != "":
			out = append(out, Act{Verb: v.name, Kind: v.kind, Ref: value.String()})
		}
	}
	switch {
	case f.IsList():
		for list, i := m.Get(f).List(), 0; i < list.Len(); i++ {
			one(list.Get(i))
		}
	case f.Message() == nil || m.Has(f):
		one(m.Get(f))
	}
	return out
}

func unique(acts []Act) []Act {
	if len(acts) < 2 {
		return acts
	}
	seen := make(map[Act]bool, len(acts))
	return slices.DeleteFunc(acts, func(a Act) bool {
		was := seen[a]
		seen[a] = true
		return was
	})
}

// ActsOf returns what a request to the method does. An own call does nothing.
func ActsOf(fullMethod string, request proto.Message) ([]Act, error) {
	r, err := ruleOf(fullMethod)
	if err != nil {
		return nil, err
	}
	return r.acts(request)
}

// Verbs returns every verb that methods linked into this program declare, sorted,
// with the kinds of resources that each is for; "" stands for the cluster.
func Verbs() map[string][]string {
	out := map[string][]string{}
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				for _, v := range verbsIn(s.Methods().Get(j)) {
					kinds := out[v.GetName()]
					if !slices.Contains(kinds, v.GetResource()) {
						kinds = append(kinds, v.GetResource())
					}
					// Where a request names none, the verb is for the cluster.
					if !v.GetEach() && !slices.Contains(kinds, "") {
						kinds = append(kinds, "")
					}
					slices.Sort(kinds)
					out[v.GetName()] = kinds
				}
			}
		}
		return true
	})
	return out
}

// Approvable returns the verbs that several people can be asked for: those of which
// every method that has them says so.
func Approvable() map[string]bool {
	out := map[string]bool{}
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				for _, v := range verbsIn(s.Methods().Get(j)) {
					before, seen := out[v.GetName()]
					out[v.GetName()] = v.GetApprovable() && (before || !seen)
				}
			}
		}
		return true
	})
	maps.DeleteFunc(out, func(_ string, is bool) bool { return !is })
	return out
}

func verbsIn(md protoreflect.MethodDescriptor) []*authzpb.Verb {
	if !proto.HasExtension(md.Options(), authzpb.E_Rule) {
		return nil
	}
	return proto.GetExtension(md.Options(), authzpb.E_Rule).(*authzpb.Rule).GetVerbs()
}
