package audit

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
)

// TestPolicyIsWhole: a record has what a policy became, and what one was that is
// removed; of one that is too long the beginning, its length and its hash.
func TestPolicyIsWhole(t *testing.T) {
	l, s := newLog(t)
	put := func(text string) *auditpb.Record {
		t.Helper()
		if err := s.Update(l.Own(t.Context(), "test"), func(tx *raftstore.Tx) error {
			if text == "" {
				return pkistore.AccessPolicies.Delete(tx, "p")
			}
			rec, _ := pkistore.AccessPolicies.Get(tx, "p")
			return pkistore.AccessPolicies.Put(tx, &pkipb.AccessPolicy{Meta: rec.GetMeta(), Id: "p", Text: text})
		}); err != nil {
			t.Fatal(err)
		}
		all := recordsOf(t, s)
		r := all[len(all)-1]
		if proto.Size(r) > auditlog.MaxRecordBytes || len(r.GetChanges()) != 1 || len(r.GetChanges()[0].GetFields()) != 1 {
			t.Fatalf("the record is %v", r)
		}
		return r
	}
	long := strings.Repeat("permit (principal, action, resource);\n", 500)[:15<<10]
	if f := put(long).GetChanges()[0].GetFields()[0]; f.GetPath() != "text" || f.GetNew() != long || f.GetNewCut() != nil {
		t.Errorf("%d bytes of it", len(f.GetNew()))
	}
	other := long[:len(long)-1] + "!"
	f := put(other).GetChanges()[0].GetFields()[0]
	sum := sha256.Sum256([]byte(long))
	if f.GetNew() != other || len(f.GetOld()) > maxValue || f.GetOldCut().GetBytes() != uint64(len(long)) || string(f.GetOldCut().GetSha256()) != string(sum[:]) {
		t.Errorf("what it was: %d bytes, %v", len(f.GetOld()), f.GetOldCut())
	}
	r := put("")
	if f := r.GetChanges()[0].GetFields()[0]; r.GetChanges()[0].GetKind() != auditpb.Change_KIND_REMOVED || f.GetOld() != other || f.GetNew() != "" {
		t.Errorf("a removal has %d bytes", len(f.GetOld()))
	}
	f = put(strings.Repeat("x", 20<<10)).GetChanges()[0].GetFields()[0]
	if len(f.GetNew()) < 15<<10 || f.GetNewCut().GetBytes() != 20<<10 {
		t.Errorf("of one that is too long: %d bytes, %v", len(f.GetNew()), f.GetNewCut())
	}
}

// TestManyHideNone: labels as many as there may be leave room for all that is one of its
// kind, and what has no room is told by its path.
func TestManyHideNone(t *testing.T) {
	c := &auditpb.Change{}
	var values []value
	for i := range 500 {
		values = append(values, value{change: c, path: fmt.Sprintf("spec.labels[k%d]", i), new: strings.Repeat("v", 100)})
	}
	values = append(values, value{change: c, path: "spec.image", new: "evil"}, value{change: c, path: "spec.mounts[0].source", new: "/"})
	omitted := fit(values, changesBytes)
	said := map[string]*auditpb.Field{}
	size := 0
	for _, f := range c.GetFields() {
		said[f.GetPath()] = f
		size += proto.Size(f)
	}
	rest := said["spec.labels[…]"]
	if said["spec.image"].GetNew() != "evil" || said["spec.mounts[0].source"].GetNew() != "/" || size > changesBytes+omittedBytes {
		t.Errorf("%d bytes: %v", size, c.GetFields())
	}
	if omitted == 0 || rest.GetOmitted() != omitted || len(c.GetFields())-1+int(omitted) != len(values) || len(rest.GetNewCut().GetSha256()) != 32 {
		t.Errorf("%d left out, told as %v", omitted, rest)
	}
	again := &auditpb.Change{}
	for i := range values {
		values[i].change, values[i].field = again, nil
	}
	values[499].new = "another"
	fit(values, changesBytes)
	if last := again.GetFields()[len(again.GetFields())-1]; string(last.GetNewCut().GetSha256()) == string(rest.GetNewCut().GetSha256()) {
		t.Error("what is left out is told alike, though it is another")
	}
}

// TestCutIsTold: two values that begin alike are told apart.
func TestCutIsTold(t *testing.T) {
	long := strings.Repeat("é", 200)
	a, b := value{path: "p", old: long + "a", new: long + "b"}.shown(maxValue), value{path: "p", new: "short"}.shown(maxValue)
	if a.GetOld() != a.GetNew() || string(a.GetOldCut().GetSha256()) == string(a.GetNewCut().GetSha256()) || a.GetNewCut().GetBytes() != 401 {
		t.Errorf("%v", a)
	}
	if b.GetOldCut() != nil || b.GetNewCut() != nil {
		t.Errorf("%v", b)
	}
}
