// Package strictpb finds what protobuf lets pass: fields that this version does
// not know, at any depth of a message. Protobuf keeps them, unread; whoever
// stores or acts upon such a message would do what nobody checked, and of two
// versions each would hold another truth. Every strict reader refuses them, in
// words of its own.
package strictpb

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Unknown names the type of a message, m or one within, that has fields this
// version does not know; it is empty where there is none.
func Unknown(m proto.Message) string { return string(unknown(m.ProtoReflect())) }

func unknown(m protoreflect.Message) (found protoreflect.FullName) {
	if len(m.GetUnknown()) > 0 {
		return m.Descriptor().FullName()
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					found = unknown(v.Message())
					return found == ""
				})
			}
		case fd.Message() == nil:
		case fd.IsList():
			for i := 0; i < v.List().Len() && found == ""; i++ {
				found = unknown(v.List().Get(i).Message())
			}
		default:
			found = unknown(v.Message())
		}
		return found == ""
	})
	return found
}
