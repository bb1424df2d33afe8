// Package approvable says what a request that several people must be for is: the hash by
// which they say that they are for just this one, and what it says, all of it. The leader
// and whoever approves have it from here, each by the encoded request alone, so that
// nobody in between chooses what is read of it.
//
// It decides nothing: who must be for what is package roles'.
package approvable

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/internal/strictpb"
	"github.com/redoubt-cluster/redoubt/pki/audit"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
)

// Hash is what an approval is bound to: the method, and every field of the request but
// what is fresh.
func Hash(method string, encoded []byte) []byte {
	sum := sha256.Sum256(lp.Append(lp.Append([]byte("redoubt approval v1\x00"), []byte(method)), encoded))
	return sum[:]
}

// Decode is the request to that method. What this program does not know of it nobody
// could show.
func Decode(method string, encoded []byte) (proto.Message, error) {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil, err
	}
	s, ok := d.(protoreflect.ServiceDescriptor)
	if !ok || s.Methods().ByName(protoreflect.Name(name)) == nil {
		return nil, errors.New("there is no such method")
	}
	t, err := protoregistry.GlobalTypes.FindMessageByName(s.Methods().ByName(protoreflect.Name(name)).Input().FullName())
	if err != nil {
		return nil, err
	}
	m := t.New().Interface()
	if err := proto.Unmarshal(encoded, m); err != nil {
		return nil, err
	}
	if t := strictpb.Unknown(m); t != "" {
		return nil, fmt.Errorf("fields of %s that are not known", t)
	}
	return m, nil
}

// Fresh are the fields of a request that each call makes by chance: who asks chooses
// them, and they are no part of what others approve.
func Fresh(request proto.Message) (out []protoreflect.FieldDescriptor) {
	fields := request.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if fd := fields.Get(i); proto.GetExtension(fd.Options(), authzpb.E_Fresh).(bool) {
			out = append(out, fd)
		}
	}
	return out
}

// Fields are all that a request says, in the order of its fields; fresh ones say that.
func Fields(request proto.Message) (out []*auditpb.Field) {
	for _, fd := range Fresh(request) {
		out = append(out, &auditpb.Field{Path: string(fd.Name()), New: "(made anew by each call)"})
	}
	return append(out, audit.Describe(request)...)
}
