package schedulerpb

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func digest(t *testing.T, set ...*Assignment) []byte {
	t.Helper()
	d, err := AssignmentsDigest(set)
	if err != nil || len(d) != DigestSize {
		t.Fatal(d, err)
	}
	return d
}

// TestDigestCoversEveryField changes each field in turn, so that one that is
// added later cannot be forgotten.
func TestDigestCoversEveryField(t *testing.T) {
	base := digest(t, &Assignment{})
	fields := (&Assignment{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		a := &Assignment{}
		m := a.ProtoReflect()
		switch f.Kind() {
		case protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString("x"))
		case protoreflect.Uint32Kind:
			m.Set(f, protoreflect.ValueOfUint32(1))
		case protoreflect.Int64Kind:
			m.Set(f, protoreflect.ValueOfInt64(1))
		case protoreflect.BytesKind:
			m.Set(f, protoreflect.ValueOfBytes([]byte("x")))
		case protoreflect.EnumKind:
			m.Set(f, protoreflect.ValueOfEnum(10))
		case protoreflect.MessageKind:
			if f.IsList() {
				a.Attachments = []*taskpb.Attachment{{NetworkId: "x"}}
			} else {
				a.Spec = &taskpb.TaskSpec{Force: 1}
			}
		default:
			t.Fatalf("say here how to change a field of kind %v", f.Kind())
		}
		if same := bytes.Equal(digest(t, a), base); same != (f.Name() == "observed" || f.Name() == "withdraw_ns") {
			t.Errorf("field %s: the digest is the same: %v", f.Name(), same)
		}
	}
}

func TestDigestKnowsNoOrder(t *testing.T) {
	a, b := &Assignment{TaskId: "a"}, &Assignment{TaskId: "b"}
	if !bytes.Equal(digest(t, a, b), digest(t, b, a)) || bytes.Equal(digest(t, a), digest(t, a, b)) || bytes.Equal(digest(t), digest(t, a)) {
		t.Error("the digest is of the order, or of too little")
	}
}
