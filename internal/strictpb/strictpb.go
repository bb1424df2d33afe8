// Package strictpb finds what protobuf lets pass: fields that this version does
// not know, at any depth of a message. Protobuf keeps them, unread; whoever
// stores or acts upon such a message would do what nobody checked, and of two
// versions each would hold another truth. Every strict reader refuses them, in
// words of its own.
package strictpb

import (
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Unknown names the type of a message, m or one within, that has fields this
// version does not know; it is empty where there is none.
func Unknown(m proto.Message) string { return string(unknown(m.ProtoReflect())) }

// unknown looks into the fields that can hold messages, and no others: most of
// what is read has many fields and few messages.
func unknown(m protoreflect.Message) (found protoreflect.FullName) {
	if len(m.GetUnknown()) > 0 {
		return m.Descriptor().FullName()
	}
	for _, fd := range messageFields(m.Descriptor()) {
		if !m.Has(fd) {
			continue
		}
		switch v := m.Get(fd); {
		case fd.IsMap():
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				found = unknown(v.Message())
				return found == ""
			})
		case fd.IsList():
			for l, i := v.List(), 0; i < l.Len() && found == ""; i++ {
				found = unknown(l.Get(i).Message())
			}
		default:
			found = unknown(v.Message())
		}
		if found != "" {
			return found
		}
	}
	return ""
}

// fieldsOf keeps what messageFields found, by descriptor. Messages are of the
// program's own types, so there are only so many.
var fieldsOf sync.Map

// messageFields are the fields of d whose values are messages, or lists or maps
// of messages.
func messageFields(d protoreflect.MessageDescriptor) []protoreflect.FieldDescriptor {
	if known, ok := fieldsOf.Load(d); ok {
		return known.([]protoreflect.FieldDescriptor)
	}
	var out []protoreflect.FieldDescriptor
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		if fd.Message() != nil && (!fd.IsMap() || fd.MapValue().Message() != nil) {
			out = append(out, fd)
		}
	}
	fieldsOf.Store(d, out)
	return out
}
