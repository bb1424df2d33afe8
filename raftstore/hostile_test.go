package raftstore_test

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// TestHostileObjects writes objects as a peer could have made them. The state
// machine halts on what it cannot read, so none of it may be proposed.
func TestHostileObjects(t *testing.T) {
	s := raftstoretest.New(t, things)
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1)
	outer := &testpb.Thing{Id: "outer"}
	outer.ProtoReflect().SetUnknown(unknown)
	inner := &testpb.Thing{Id: "inner", Meta: &raftstorepb.Meta{}}
	inner.Meta.ProtoReflect().SetUnknown(unknown)
	for _, tc := range []struct {
		name string
		o    *testpb.Thing
		want string // empty: accepted
	}{
		{"unknown field", outer, "does not know"},
		{"unknown field in its meta", inner, ""}, // the store replaces Meta whole
		{"text that is no UTF-8", &testpb.Thing{Id: "text", Name: "\xff"}, "UTF-8"},
		{"id that is no UTF-8", &testpb.Thing{Id: "\xff"}, "UTF-8"},
		{"no id", &testpb.Thing{}, "id"},
		{"too large", &testpb.Thing{Id: "large", Payload: bytes.Repeat([]byte{1}, raftstore.MaxTransactionBytes+1)}, "too large"},
	} {
		err := s.Update(waitContext(t), func(tx *raftstore.Tx) error { return things.Put(tx, tc.o) })
		switch {
		case tc.want == "" && err != nil, tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
	// An id that was only asked for is part of the entry, too.
	err := s.Update(waitContext(t), func(tx *raftstore.Tx) error {
		things.Get(tx, "\xff")
		return things.Put(tx, &testpb.Thing{Id: "reader"})
	})
	if err == nil || !strings.Contains(err.Error(), "no UTF-8") {
		t.Errorf("a precondition that cannot be written: %v", err)
	}
	put(t, s, &testpb.Thing{Id: "after"})
	if err := s.Err(); err != nil {
		t.Fatalf("the store halted: %v", err)
	}
	if o := get(t, s, "inner"); len(o.GetMeta().ProtoReflect().GetUnknown()) != 0 {
		t.Error("an unknown field survives in Meta")
	}
}
