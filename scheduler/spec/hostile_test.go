package spec

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// hostile gives each kind of field values that hardly any field may have.
func hostile(fd protoreflect.FieldDescriptor) map[string]protoreflect.Value {
	long := strings.Repeat("x", MaxSpecBytes/2)
	switch fd.Kind() {
	case protoreflect.StringKind:
		return map[string]protoreflect.Value{
			"NUL": protoreflect.ValueOfString("a\x00b"), "escape": protoreflect.ValueOfString("a\x1b[2Jb"),
			"not UTF-8": protoreflect.ValueOfString("a\xffb"), "long": protoreflect.ValueOfString(long),
			"newline": protoreflect.ValueOfString("a\nb"), "dots": protoreflect.ValueOfString("../../etc/shadow"),
			"lookalike": protoreflect.ValueOfString("w\u0435b"), "capitals": protoreflect.ValueOfString("WEB"),
		}
	case protoreflect.Int64Kind:
		return map[string]protoreflect.Value{
			"least": protoreflect.ValueOfInt64(math.MinInt64), "most": protoreflect.ValueOfInt64(math.MaxInt64), "-1": protoreflect.ValueOfInt64(-1),
		}
	case protoreflect.Uint64Kind:
		return map[string]protoreflect.Value{"most": protoreflect.ValueOfUint64(math.MaxUint64)}
	case protoreflect.Uint32Kind:
		return map[string]protoreflect.Value{"most": protoreflect.ValueOfUint32(math.MaxUint32)}
	case protoreflect.EnumKind:
		return map[string]protoreflect.Value{"most": protoreflect.ValueOfEnum(math.MaxInt32), "-1": protoreflect.ValueOfEnum(-1)}
	}
	return nil
}

// fine are the hostile values that do no harm where they are, and why.
var fine = map[string]string{
	"task.force most": "any number differs from another",
	// What a program is told is its own affair, as long as execve can say it.
	"task.container.command[0] escape": "", "task.container.command[0] newline": "", "task.container.command[0] dots": "",
	"task.container.command[0] lookalike": "", "task.container.command[0] capitals": "",
	"task.container.args[0] escape": "", "task.container.args[0] newline": "", "task.container.args[0] dots": "",
	"task.container.args[0] lookalike": "", "task.container.args[0] capitals": "",
	// Labels are text; on a terminal their values are shown escaped.
	"labels value newline": "", "labels value dots": "", "labels value lookalike": "", "labels value capitals": "",
	"task.container.labels value newline": "", "task.container.labels value dots": "", "task.container.labels value lookalike": "",
	"task.container.labels value capitals": "",
	"task.container.groups[0] capitals":    "so may groups", "task.container.hosts[0].name capitals": "", "task.container.dns.search[0] capitals": "",
	"task.container.ulimits[0].hard most": "a bound that none reaches", "task.container.ulimits[0].hard -1": "no bound",
	"task.container.user capitals": "users may have capitals", "task.container.hostname capitals": "so may hosts",
}

// first sees that a list has an element.
func first(l protoreflect.List) protoreflect.List {
	if l.Len() == 0 {
		l.Append(l.NewElement())
	}
	return l
}

// TestEveryFieldHasItsBounds sets each field of a full specification, one at a
// time, to what it must not be. A new field without a rule fails here.
func TestEveryFieldHasItsBounds(t *testing.T) {
	used := map[string]bool{}
	fields := 0
	try := func(path, name string, set func(*schedulerpb.ServiceSpec)) {
		key := path + " " + name
		s := Normalize(full())
		set(s)
		s = Normalize(s) // as a manager does first
		err := Validate(s)
		_, allowed := fine[key]
		used[key] = true
		switch {
		case err == nil && !allowed:
			t.Errorf("%s is accepted", key)
		case err != nil && allowed:
			t.Errorf("%s is refused (%v): strike it from the list", key, err)
		case err != nil && (strings.ContainsAny(err.Error(), "\n\x00\x1b") || len(err.Error()) > 500):
			t.Errorf("%s: not one short, plain line: %.600q", key, err)
		}
	}
	var walk func(path string, m protoreflect.Message, get func(*schedulerpb.ServiceSpec) protoreflect.Message)
	walk = func(path string, m protoreflect.Message, get func(*schedulerpb.ServiceSpec) protoreflect.Message) {
		list := m.Descriptor().Fields()
		for i := range list.Len() {
			fd := list.Get(i)
			at := strings.TrimPrefix(path+"."+string(fd.Name()), ".")
			fields++
			switch {
			case fd.IsMap():
				for name, v := range hostile(fd.MapValue()) {
					try(at, "value "+name, func(s *schedulerpb.ServiceSpec) {
						get(s).Mutable(fd).Map().Set(protoreflect.ValueOfString("k").MapKey(), v)
					})
				}
				for name, v := range hostile(fd.MapKey()) {
					if name != "capitals" { // a label's key may have some
						try(at, "key "+name, func(s *schedulerpb.ServiceSpec) {
							get(s).Mutable(fd).Map().Set(v.MapKey(), protoreflect.ValueOfString("v"))
						})
					}
				}
			case fd.IsList() && fd.Message() != nil:
				for n := range m.Get(fd).List().Len() {
					walk(fmt.Sprintf("%s[%d]", at, n), m.Get(fd).List().Get(n).Message(), func(s *schedulerpb.ServiceSpec) protoreflect.Message {
						return get(s).Mutable(fd).List().Get(n).Message()
					})
				}
			case fd.IsList():
				for name, v := range hostile(fd) {
					try(at+"[0]", name, func(s *schedulerpb.ServiceSpec) { first(get(s).Mutable(fd).List()).Set(0, v) })
				}
				try(at, "too many", func(s *schedulerpb.ServiceSpec) {
					l := first(get(s).Mutable(fd).List())
					for range 5000 {
						l.Append(l.Get(0))
					}
				})
			case fd.Message() != nil:
				if m.Has(fd) {
					walk(at, m.Get(fd).Message(), func(s *schedulerpb.ServiceSpec) protoreflect.Message { return get(s).Mutable(fd).Message() })
				}
			default:
				for name, v := range hostile(fd) {
					try(at, name, func(s *schedulerpb.ServiceSpec) { get(s).Set(fd, v) })
				}
			}
		}
	}
	walk("", full().ProtoReflect(), func(s *schedulerpb.ServiceSpec) protoreflect.Message { return s.ProtoReflect() })
	if fields < 60 {
		t.Errorf("only %d fields were reached", fields)
	}
	for key := range fine {
		if !used[key] {
			t.Errorf("%q is in the list and is no field's", key)
		}
	}
}

// TestNamesHaveOneSpelling: no two names look or sort alike.
func TestNamesHaveOneSpelling(t *testing.T) {
	for _, name := range []string{"Web", "WEB", "w\u0435b", "we\u200bb", "web\u0301", "\uff57eb", "web.", " web", "web ", "w_", "ⅳ", "web\x00"} {
		s := Normalize(full())
		s.Name = name
		if err := Validate(s); err == nil {
			t.Errorf("name %q is accepted", name)
		}
	}
}
