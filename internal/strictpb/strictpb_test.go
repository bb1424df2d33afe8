package strictpb_test

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/redoubt-cluster/redoubt/internal/strictpb"
)

// later is field 99 of a version that is yet to come.
var later = []byte{0x98, 0x06, 0x01}

func TestUnknown(t *testing.T) {
	if got := strictpb.Unknown(&structpb.Struct{}); got != "" {
		t.Fatalf("found %s in an empty message", got)
	}
	inner := structpb.NewStringValue("x")
	for name, m := range map[string]proto.Message{
		"known":   structpb.NewStringValue("x"),
		"in list": structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewBoolValue(true), inner}}),
		"in map":  &structpb.Struct{Fields: map[string]*structpb.Value{"k": inner, "l": structpb.NewBoolValue(true)}},
		"deep":    structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"k": structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{inner}})}}),
		"itself":  inner,
	} {
		inner.ProtoReflect().SetUnknown(nil)
		if got := strictpb.Unknown(m); got != "" {
			t.Errorf("%s: found %s where all is known", name, got)
		}
		inner.ProtoReflect().SetUnknown(later)
		want := "google.protobuf.Value"
		if name == "known" {
			want = ""
		}
		if got := strictpb.Unknown(m); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func BenchmarkUnknown(b *testing.B) {
	m := &structpb.Struct{Fields: map[string]*structpb.Value{"k": structpb.NewStringValue("x"), "l": structpb.NewBoolValue(true)}}
	for b.Loop() {
		if strictpb.Unknown(m) != "" {
			b.Fatal("found something")
		}
	}
}
