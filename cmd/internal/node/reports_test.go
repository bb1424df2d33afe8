package node

import (
	"context"
	"testing"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
)

// reportKeyd says how much of the audit log was signed when a report was.
type reportKeyd struct {
	*rootKeyd
	signed uint64
}

func (k *reportKeyd) SignReport(context.Context, *keydpb.SignReportRequest) (*keydpb.SignReportResponse, error) {
	k.signed = k.last.Size
	return &keydpb.SignReportResponse{}, nil
}

// TestReportNamesTheLogAsItIs: keyd has signed all records that there are when it
// signs a report, and signs none where the log is another than before.
func TestReportNamesTheLogAsItIs(t *testing.T) {
	w, root := newCheckWorld(t)
	k := &reportKeyd{rootKeyd: root}
	s := reportSigner{k, w.m.store.Records}
	for _, what := range []string{"one", "two"} {
		w.record(t, what)
		if _, err := s.SignReport(t.Context(), &keydpb.SignReportRequest{}); err != nil {
			t.Fatal(err)
		}
		r, err := w.m.store.Records()
		if err != nil {
			t.Fatal(err)
		}
		if k.signed != r.Log.Size() {
			t.Errorf("of %d records %d were signed", r.Log.Size(), k.signed)
		}
	}
	k.last.Root[0] ^= 1
	w.record(t, "three")
	k.signed = 0
	if _, err := s.SignReport(t.Context(), &keydpb.SignReportRequest{}); err == nil || k.signed != 0 {
		t.Errorf("a report of a log that was changed: %v", err)
	}
	if err := w.m.makeCheckpoint(t.Context()); err == nil {
		t.Error("a checkpoint of a log that was changed")
	}
}
