package control_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/signedreport"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	checks "github.com/redoubt-cluster/redoubt/threatmodel/control"
	"github.com/redoubt-cluster/redoubt/threatmodel/profile"
	"github.com/redoubt-cluster/redoubt/threatmodel/report"
)

// dueNow has a report of each day be due a second ago.
func (w *judged) dueNow() {
	w.t.Helper()
	if _, err := w.api.SetComplianceSchedule(w.t.Context(), &controlpb.SetComplianceScheduleRequest{Every: 86400}); err != nil {
		w.t.Fatal(err)
	}
	schedulertest.Update(w.t, w.store, func(tx *raftstore.Tx) error {
		rec, _ := pkistore.Reporting.Get(tx, pkistore.ReportingID)
		rec = proto.CloneOf(rec)
		rec.Next = tx.Now().Unix() - 1
		return pkistore.Reporting.Put(tx, rec)
	})
}

// TestReportsWhenLeadersChange: what is due while the leader changes is made once, and
// behind the one before, at whatever point the former leader lost its lead.
func TestReportsWhenLeadersChange(t *testing.T) {
	for name, c := range map[string]struct {
		// lose has the former leader's try meet the next one's, which makes.
		lose  func(w *judged, make func(), cut context.CancelFunc)
		fails bool // the former leader tells that it failed
		signs int  // how often keyd was asked: none of it comes to nothing but where it must
	}{
		"the next makes it while the former judges": {func(w *judged, make func(), _ context.CancelFunc) {
			var once sync.Once // the nodes are asked at a time
			w.checks = nodesSay(func(_ context.Context, node string, ids []string) ([]*taskpb.CheckResult, error) {
				once.Do(make)
				return well(node == w.manager, ids), nil
			})
		}, false, 1},
		"the next makes it while the former's keyd signs": {func(w *judged, make func(), _ context.CancelFunc) {
			w.keyd.meanwhile = func() { w.keyd.meanwhile = nil; make() }
		}, false, 2},
		"the former is cut off while it judges": {func(w *judged, _ func(), cut context.CancelFunc) {
			w.checks = nodesSay(func(ctx context.Context, _ string, _ []string) ([]*taskpb.CheckResult, error) {
				cut()
				return nil, ctx.Err()
			})
		}, true, 1},
		"the former is cut off when its keyd has signed": {func(w *judged, _ func(), cut context.CancelFunc) {
			w.keyd.meanwhile = func() { w.keyd.meanwhile = nil; cut() }
		}, true, 2},
		"the former's keyd does not sign": {func(w *judged, _ func(), _ context.CancelFunc) {
			w.keyd.fail = errors.New("it is locked")
		}, true, 2},
		"the schedule ends while the former judges": {func(w *judged, _ func(), _ context.CancelFunc) {
			w.checks = nodesSay(func(_ context.Context, node string, ids []string) ([]*taskpb.CheckResult, error) {
				if _, err := w.api.SetComplianceSchedule(w.t.Context(), &controlpb.SetComplianceScheduleRequest{}); err != nil {
					w.t.Error(err)
				}
				return well(node == w.manager, ids), nil
			})
		}, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newJudged(t)
			w.mustSign()
			w.dueNow()
			w.keyd.asked = 0
			next := w.another()
			makes := func(by *control.Server) {
				t.Helper()
				if err := by.ReportIfDue(t.Context()); err != nil {
					t.Error(err)
				}
			}
			ctx, cut := context.WithCancel(t.Context())
			defer cut()
			c.lose(w, func() { makes(next) }, cut)
			w.lookedAt(nil) // the former, with what it meets
			if err := w.api.ReportIfDue(ctx); (err != nil) != c.fails {
				t.Errorf("the former leader: %v", err)
			}
			w.keyd.fail = nil
			makes(next)
			makes(w.another())
			resp, err := next.ListReports(t.Context(), &controlpb.ListReportsRequest{})
			if err != nil {
				t.Fatal(err)
			}
			want := 2
			if c.signs == 0 {
				want = 1
			}
			if got := resp.GetReports(); len(got) != want || got[0].GetNumber() != uint64(want) || w.keyd.asked != c.signs {
				t.Fatalf("kept are %v, and keyd was asked %d times", got, w.keyd.asked)
			}
			if left := time.Until(time.Unix(resp.GetNext(), 0)); want > 1 && (left < 23*time.Hour || left > 25*time.Hour) {
				t.Errorf("the next is due in %v", left)
			}
			var chain []signedreport.Statement
			for n := range uint64(want) {
				r, err := next.GetReport(t.Context(), &controlpb.GetReportRequest{Number: n + 1})
				if err != nil {
					t.Fatal(err)
				}
				_, st := w.signed(r.GetReport(), r.GetKeys())
				if chain = append(chain, st); n > 0 {
					if err := st.Follows(chain[n-1]); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

// TestReportOfManyNodes: the report of five hundred nodes is kept, and whole.
func TestReportOfManyNodes(t *testing.T) {
	var ids []string
	var results []report.Result
	for _, c := range checks.All() {
		ids = append(ids, c.ID)
	}
	for i := range 500 {
		sum := sha256.Sum256(fmt.Append(nil, i))
		target := report.Target{Kind: "node", Name: fmt.Sprintf("node-%d", i), ID: hex.EncodeToString(sum[:13])}
		for _, c := range checks.All() {
			if !c.OfCluster() {
				r := checks.Result{Control: c, Outcome: checks.Pass, Evidence: []string{fmt.Sprintf("%d looked at", i%7)}, Took: time.Duration(sum[0]) * time.Microsecond}
				results = append(results, report.Of(target, []checks.Result{r})...)
			}
		}
	}
	p, err := profile.Load(profile.Baseline, ids)
	if err != nil {
		t.Fatal(err)
	}
	r, err := report.New(p, ident.New(), results, nil, time.Now(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var whole bytes.Buffer
	if err := r.Write(&whole, "json"); err != nil {
		t.Fatal(err)
	}
	text := whole.Bytes()
	packed, err := control.Pack(text)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes are %d", len(text), len(packed))
	if got, err := control.Unpack(packed); err != nil || string(got) != string(text) {
		t.Errorf("another report: %v", err)
	}
	if _, err := control.Pack(make([]byte, 17<<20)); err == nil {
		t.Error("a report of 17 MiB")
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(make([]byte, 17<<20)); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{"nothing": nil, "cut off": packed[:len(packed)-1], "no gzip": text, "too large": b.Bytes()} {
		if _, err := control.Unpack(bad); err == nil {
			t.Errorf("%s is a report", name)
		}
	}
}
