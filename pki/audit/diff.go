package audit

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/redoubt-cluster/redoubt/internal/secrecypb"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// policies are the tables of documents that say what may be, by the field that has the
// document: it is no secret, and a record has it whole.
var policies = map[string]protoreflect.Name{"access_policies": "text", "image_policies": "document"}

// changesOf says what a transaction does, as far as it fits.
func changesOf(tx *raftstore.Tx, r *auditpb.Record) {
	room := changesBytes
	var values []value
	for c := range tx.Changes() {
		out := &auditpb.Change{Table: c.Table, Id: c.ID, Kind: auditpb.Change_KIND_UPDATED}
		shown := c.New
		switch {
		case c.Old == nil && c.New == nil:
			continue
		case c.New == nil:
			out.Kind, shown = auditpb.Change_KIND_REMOVED, c.Old
		case c.Old == nil:
			out.Kind = auditpb.Change_KIND_CREATED
		}
		out.Name = clip(nameOf(shown), maxValue)
		cost := len(out.Table) + len(out.Id) + len(out.Name) + 2*fieldOverhead
		if room-cost < changesBytes/2 { // the rest is for what was changed of them
			r.Omitted++
			continue
		}
		room -= cost
		r.Changes = append(r.Changes, out)
		var old, now protoreflect.Message
		if c.Old != nil {
			old = c.Old.ProtoReflect()
		}
		if c.New != nil {
			now = c.New.ProtoReflect()
		}
		document := policies[c.Table]
		d := differ{most: maxValue, elements: maxElements, stored: true, document: document, emit: func(path, was, is string) {
			values = append(values, value{change: out, path: path, old: was, new: is, document: path == string(document)})
		}}
		d.messages("", old, now)
	}
	r.Omitted += fit(values, room)
}

// Describe is all that a request says, whole, for those who are to approve it: such
// requests have bounds, and nothing in them is secret. A document is shown as its text.
func Describe(request proto.Message) (out []*auditpb.Field) {
	d := differ{most: math.MaxInt, elements: math.MaxInt, open: true, document: "document", emit: func(path, _, is string) { out = append(out, &auditpb.Field{Path: path, New: is}) }}
	d.messages("", nil, request.ProtoReflect())
	return out
}

// Compare is what differs between two messages of one type, whole: values that are
// secret only as that they do.
func Compare(old, now proto.Message) (out []*auditpb.Field) {
	d := differ{most: math.MaxInt, elements: math.MaxInt, emit: func(path, was, is string) {
		out = append(out, &auditpb.Field{Path: path, Old: was, New: is})
	}}
	d.messages("", old.ProtoReflect(), now.ProtoReflect())
	return out
}

// nameOf is what people call an object: its name, or its spec's.
func nameOf(o raftstore.Object) string {
	m := o.ProtoReflect()
	if fd := m.Descriptor().Fields().ByName("spec"); fd != nil && fd.Message() != nil && !fd.IsList() && !fd.IsMap() {
		if n := nameIn(m.Get(fd).Message()); n != "" {
			return n
		}
	}
	return nameIn(m)
}

func nameIn(m protoreflect.Message) string {
	if fd := m.Descriptor().Fields().ByName("name"); fd != nil && fd.Kind() == protoreflect.StringKind && !fd.IsList() {
		return m.Get(fd).String()
	}
	return ""
}

// differ tells values that are others than before, by their paths.
type differ struct {
	emit func(path, was, is string)
	// most bounds the key of a map in a path, in bytes; elements what is looked at of
	// one list or map.
	most, elements int
	// stored: what is compared are objects of a table.
	stored bool
	// open: bytes are shown that no field says to be.
	open bool
	// document is a field whose bytes are a text that everybody may read.
	document protoreflect.Name
}

// messages compares two messages of one type; nil is one that is not there.
func (d differ) messages(path string, old, now protoreflect.Message) {
	either := now
	if either == nil || !either.IsValid() {
		either = old
	}
	if either == nil {
		return
	}
	for _, f := range fieldsOf(either.Descriptor()) {
		was, is := valueOf(old, f.FieldDescriptor), valueOf(now, f.FieldDescriptor)
		if !was.IsValid() && !is.IsValid() {
			continue
		}
		if d.stored && path == "" && (f.name == "meta" || f.name == "id") {
			continue // the store's, and the change's own
		}
		at := f.name
		if path != "" {
			at = path + "." + at
		}
		d.field(at, f, was, is)
	}
}

// field is what has to be known of one to tell its value.
type field struct {
	protoreflect.FieldDescriptor
	name         string
	secret, open bool // as its options say
}

// known are the fields of messages that were told before: as many as there are types.
var known sync.Map // protoreflect.MessageDescriptor → []field

func fieldsOf(md protoreflect.MessageDescriptor) []field {
	if all, ok := known.Load(md); ok {
		return all.([]field)
	}
	fields := md.Fields()
	all := make([]field, fields.Len())
	for i := range all {
		fd := fields.Get(i)
		all[i] = field{FieldDescriptor: fd, name: string(fd.Name()),
			secret: proto.GetExtension(fd.Options(), secrecypb.E_Secret).(bool), open: proto.GetExtension(fd.Options(), secrecypb.E_Open).(bool)}
	}
	known.Store(md, all)
	return all
}

// valueOf is a field's value; invalid where it is not set.
func valueOf(m protoreflect.Message, fd protoreflect.FieldDescriptor) protoreflect.Value {
	if m == nil || !m.IsValid() || !m.Has(fd) {
		return protoreflect.Value{}
	}
	return m.Get(fd)
}

func (d differ) field(path string, f field, old, now protoreflect.Value) {
	fd, hidden := f.FieldDescriptor, d.hides(f)
	switch {
	case fd.IsMap():
		d.maps(path, fd.MapValue(), old, now, hidden)
	case fd.IsList():
		was, is := listOf(old), listOf(now)
		for i := range min(max(len(was), len(is)), d.elements) {
			var a, b protoreflect.Value
			if i < len(was) {
				a = was[i]
			}
			if i < len(is) {
				b = is[i]
			}
			d.value(fmt.Sprintf("%s[%d]", path, i), fd, a, b, hidden)
		}
	default:
		d.value(path, fd, old, now, hidden)
	}
}

func listOf(v protoreflect.Value) (out []protoreflect.Value) {
	if !v.IsValid() {
		return nil
	}
	for i := range v.List().Len() {
		out = append(out, v.List().Get(i))
	}
	return out
}

func (d differ) maps(path string, fd protoreflect.FieldDescriptor, old, now protoreflect.Value, hidden bool) {
	keys := map[string]protoreflect.MapKey{}
	for _, v := range []protoreflect.Value{old, now} {
		if v.IsValid() {
			v.Map().Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
				keys[k.String()] = k
				return len(keys) < d.elements
			})
		}
	}
	names := make([]string, 0, len(keys))
	for k := range keys {
		names = append(names, k)
	}
	slices.SortFunc(names, cmp.Compare)
	for _, name := range names {
		var a, b protoreflect.Value
		if old.IsValid() {
			a = old.Map().Get(keys[name])
		}
		if now.IsValid() {
			b = now.Map().Get(keys[name])
		}
		d.value(fmt.Sprintf("%s[%s]", path, clip(name, d.most)), fd, a, b, hidden)
	}
}

// value compares two values that are no list and no map.
func (d differ) value(path string, fd protoreflect.FieldDescriptor, old, now protoreflect.Value, hidden bool) {
	if fd.Message() != nil && !hidden {
		var a, b protoreflect.Message
		if old.IsValid() {
			a = old.Message()
		}
		if now.IsValid() {
			b = now.Message()
		}
		if d.open && b != nil && !hasFields(b) {
			d.emit(path, "", "(empty)")
		}
		d.messages(path, a, b)
		return
	}
	if old.IsValid() == now.IsValid() && (!old.IsValid() || old.Equal(now)) {
		return
	}
	d.emit(path, d.shown(fd, old, hidden), d.shown(fd, now, hidden))
}

func hasFields(m protoreflect.Message) (any bool) {
	m.Range(func(protoreflect.FieldDescriptor, protoreflect.Value) bool {
		any = true
		return false
	})
	return any
}

// hides reports whether a field may be shown to nobody.
func (d differ) hides(f field) bool {
	if f.secret {
		return true
	}
	fd := f.FieldDescriptor
	if fd.IsMap() {
		fd = fd.MapValue()
	}
	return !d.open && fd.Name() != d.document && fd.Kind() == protoreflect.BytesKind && !f.open
}

// shown is a value in words; empty for one that is not there.
func (d differ) shown(fd protoreflect.FieldDescriptor, v protoreflect.Value, hidden bool) string {
	switch {
	case !v.IsValid():
		return ""
	case hidden && fd.Kind() == protoreflect.BytesKind:
		return fmt.Sprintf("(%d bytes)", len(v.Bytes()))
	case hidden:
		return "(secret)"
	}
	switch fd.Kind() {
	case protoreflect.BytesKind:
		if fd.Name() == d.document {
			return valid(string(v.Bytes()))
		}
		return fmt.Sprintf("%x", v.Bytes())
	case protoreflect.EnumKind:
		if e := fd.Enum().Values().ByNumber(v.Enum()); e != nil {
			return string(e.Name())
		}
		return fmt.Sprint(v.Enum())
	}
	return valid(v.String())
}

// valid is a text in UTF-8.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// clip shortens a text, and keeps it UTF-8.
func clip(s string, n int) string {
	s = valid(s)
	if len(s) <= n {
		return s
	}
	cut := n - len("…")
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
