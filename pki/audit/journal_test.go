package audit

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
)

func TestOfJournal(t *testing.T) {
	line := func(seq uint64, event, outcome string) Line {
		return Line{Seq: seq, At: int64(seq) * 1e9, Event: event, Outcome: outcome, Hash: []byte{byte(seq)}, Prev: []byte{byte(seq - 1)}}
	}
	signed := line(1, "sign-renew", "ok")
	signed.Node, signed.Role, signed.Keys = "n1", "worker", []string{"aa"}
	lines := []Line{signed, line(2, "sign-renew", "ok"), line(3, "unlock", "wrong key"), line(4, "unlock", "wrong key"), line(5, "unlock", "ok"),
		line(6, "sign-workloads", "ok"), line(7, "open-and-seal", "ok"), line(8, "sign-workloads", "ok"), line(9, "sign-workloads", "denied"), line(10, "journal", "damaged"), line(11, "init", "begun")}
	type want struct {
		method      string
		outcome     auditpb.Outcome
		first, last uint64
		times       uint32
		reason      string
	}
	const done, denied, fault = auditpb.Outcome_OUTCOME_DONE, auditpb.Outcome_OUTCOME_DENIED, auditpb.Outcome_OUTCOME_FAULT
	wants := []want{{"keyd/sign-renew", done, 1, 1, 0, ""}, {"keyd/sign-renew", done, 2, 2, 0, ""}, {"keyd/unlock", denied, 3, 4, 2, "wrong key"}, {"keyd/unlock", done, 5, 5, 0, ""},
		{"keyd/routine", done, 6, 8, 3, ""}, {"keyd/sign-workloads", denied, 9, 9, 0, ""}, {"keyd/journal", fault, 10, 10, 0, "damaged"}, {"keyd/init", auditpb.Outcome_OUTCOME_BEGUN, 11, 11, 0, "begun"}}
	got := OfJournal("m1", lines)
	if len(got) != len(wants) {
		t.Fatalf("%d records: %v", len(got), got)
	}
	for i, w := range wants {
		r := got[i].Record
		if (want{r.Method, r.Outcome, r.Imported.First, r.Imported.Last, r.Times, r.Reason}) != w || got[i].First.Seq != w.first || got[i].Last.Seq != w.last ||
			r.Imported.At != int64(w.last)*1e9 || r.Imported.Hash[0] != byte(w.last) || r.Caller.Node != "m1" || r.Request == "" {
			t.Errorf("record %d is %v, want %v", i, r, w)
		}
	}
	if r := got[0].Record; strings.Join(r.Objects, ",") != "Node n1,Role worker" || r.Imported.Keys[0] != "aa" {
		t.Errorf("what was signed: %v", r)
	}
	// Whatever another manager sends, a record has room.
	long := line(1, strings.Repeat("e", 1<<16), strings.Repeat("o", 1<<16))
	long.Node, long.Token, long.Detail, long.Hash, long.Keys = strings.Repeat("n", 1<<16), strings.Repeat("\xff", 1<<16), strings.Repeat("d", 1<<16), make([]byte, 1<<16), make([]string, 1<<10)
	for i := range long.Keys {
		long.Keys[i] = strings.Repeat("k", 1<<10)
	}
	if n := proto.Size(OfJournal("m", []Line{long})[0].Record); n > auditlog.MaxRecordBytes {
		t.Errorf("a record of %d bytes", n)
	}
	if r := LostLines("m", 57); r.Outcome != fault || !strings.Contains(r.Reason, "line 57") {
		t.Errorf("what was lost: %v", r)
	}
}
