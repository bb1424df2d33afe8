package control_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/signedreport"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	checks "github.com/redoubt-cluster/redoubt/threatmodel/control"
	"github.com/redoubt-cluster/redoubt/threatmodel/report"
)

// reportKeyd signs as keyd does, with a key of the test.
type reportKeyd struct {
	cluster, manager string
	asked            int
	meanwhile        func()                        // when set, is called before it signs
	change           func(*signedreport.Statement) // when set, changes what is signed
	fail             error
}

func (k *reportKeyd) SignReport(_ context.Context, req *keydpb.SignReportRequest) (*keydpb.SignReportResponse, error) {
	k.asked++
	if k.meanwhile != nil {
		k.meanwhile()
	}
	if k.fail != nil {
		return nil, k.fail
	}
	st := signedreport.Statement{SHA256: [32]byte(req.GetSha256()), Cluster: k.cluster, Manager: k.manager, Incarnation: 1, Number: req.GetNumber(), Signed: time.Now().UTC().Truncate(time.Second), Records: 5}
	copy(st.Previous[:], req.GetPrevious())
	if k.change != nil {
		k.change(&st)
	}
	text, err := st.Text()
	if err != nil {
		return nil, err
	}
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	return &keydpb.SignReportResponse{Statement: text, Key: key.Public().(ed25519.PublicKey), Signature: ed25519.Sign(key, signedreport.Message(text))}, nil
}

// sign has alice ask for a report.
func (w *judged) sign(profile string) (*controlpb.SignComplianceResponse, error) {
	ctx := authz.NewContext(w.t.Context(), authz.Identity{Person: "alice", Source: &net.TCPAddr{}})
	return w.api.SignCompliance(ctx, &controlpb.SignComplianceRequest{Profile: profile})
}

// signed is what the report says, once its statement was checked.
func (w *judged) signed(v *controlpb.SignedReport, keys []string) (*report.Report, signedreport.Statement) {
	w.t.Helper()
	st, err := signedreport.Open(v.GetEnvelope(), keys)
	if err == nil {
		err = st.Check(sha256.Sum256(v.GetReport()))
	}
	if err != nil || st.Number != v.GetNumber() {
		w.t.Fatalf("%+v, %v", st, err)
	}
	r, err := report.Read(bytes.NewReader(v.GetReport()))
	if err != nil || r.Cluster != w.ca.ClusterID || r.Compliant != v.GetCompliant() || r.Profile.ID != v.GetProfile() {
		w.t.Fatalf("%+v, %v", r, err)
	}
	return r, st
}

// kept are the numbers of the reports that are kept, the newest first.
func (w *judged) kept() (numbers []uint64) {
	w.t.Helper()
	resp, err := w.api.ListReports(w.t.Context(), &controlpb.ListReportsRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range resp.GetReports() {
		if len(r.GetReport())+len(r.GetEnvelope()) > 0 {
			w.t.Error("a listing has what reports say")
		}
		numbers = append(numbers, r.GetNumber())
	}
	return numbers
}

// TestSignCompliance: each report follows the one before, what the leader judged is
// in it with its waivers, and the oldest go.
func TestSignCompliance(t *testing.T) {
	w := newJudged(t)
	w.checked(func(_ context.Context, node string, ids []string) ([]*taskpb.CheckResult, error) {
		return well(node == w.manager, ids), nil
	})
	if _, err := w.api.GetReport(t.Context(), &controlpb.GetReportRequest{}); err == nil || !strings.Contains(err.Error(), "no report was signed yet") {
		t.Errorf("none yet: %v", err)
	}
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		if err := pkistore.People.Put(tx, &pkipb.Person{Id: "alice"}); err != nil {
			return err
		}
		for _, v := range []*pkipb.Waiver{{Id: "w1", Control: "slots-no-file", ApprovedAt: 1, Evidence: []string{"a file on each manager's disk opens it: autolock is off"}}, {Id: "w2", Control: "ca-no-alarm"}} {
			v.Reason, v.ExpiresAt = "it moves", time.Now().Add(time.Hour).Unix()
			v.AskedBy, v.Approver = &pkipb.Principal{Kind: pkipb.Principal_KIND_PERSON, Name: "alice"}, &pkipb.Principal{Kind: pkipb.Principal_KIND_PERSON, Name: "bob"}
			if err := pkistore.Waivers.Put(tx, v); err != nil {
				return err
			}
		}
		return nil
	})
	w.slots(&keydpb.Slot{Id: "s1", Kind: keydpb.SlotKind_SLOT_KIND_OPERATOR, CreatedAt: time.Now().Unix()}, &keydpb.Slot{Id: "s2", Kind: keydpb.SlotKind_SLOT_KIND_FILE, CreatedAt: time.Now().Unix()})
	resp, err := w.sign("")
	if err != nil {
		t.Fatal(err)
	}
	r, before := w.signed(resp.GetReport(), resp.GetKeys())
	if before.Number != 1 || r.Profile.ID != "redoubt-baseline" || resp.GetReport().GetAskedBy() != "person:alice" {
		t.Errorf("%+v, %v, %s", before, r.Profile, resp.GetReport().GetAskedBy())
	}
	outcomes := map[string]checks.Outcome{}
	for _, x := range r.Results {
		outcomes[x.Control] = x.Outcome
	}
	if outcomes["slots-no-file"] != report.Waived || outcomes["clocks-agree"] != checks.Pass || outcomes["files-own"] != checks.Pass {
		t.Errorf("it says %v", outcomes)
	}
	for n := uint64(2); n <= 12; n++ {
		if resp, err = w.sign("nist-800-207"); err != nil {
			t.Fatal(err)
		}
		_, st := w.signed(resp.GetReport(), resp.GetKeys())
		if err := st.Follows(before); err != nil || st.Number != n {
			t.Errorf("report %d: %+v, %v", n, st, err)
		}
		before = st
	}
	if got := w.kept(); len(got) != 10 || got[0] != 12 || got[9] != 3 {
		t.Errorf("kept are %v", got)
	}
	for _, n := range []uint64{0, 12, 3} {
		resp, err := w.api.GetReport(t.Context(), &controlpb.GetReportRequest{Number: n})
		if err != nil {
			t.Fatal(err)
		}
		if _, st := w.signed(resp.GetReport(), resp.GetKeys()); n > 0 && st.Number != n || n == 0 && st != before {
			t.Errorf("report %d is %+v", n, st)
		}
	}
	for _, n := range []uint64{2, 13, 1 << 63} {
		if _, err := w.api.GetReport(t.Context(), &controlpb.GetReportRequest{Number: n}); err == nil || !strings.Contains(err.Error(), "there is no signed report") {
			t.Errorf("report %d: %v", n, err)
		}
	}
	// Another checkpoint's keys stay beside.
	if got, err := w.api.ListReports(t.Context(), &controlpb.ListReportsRequest{}); err != nil || len(got.GetKeys()) != 1 {
		t.Errorf("%d keys, %v", len(got.GetKeys()), err)
	}
}

// TestSignedIsWhatRunTells: a signed report has every result that a run tells of, with
// what nodes say of themselves, and what they leave out is no pass in it.
func TestSignedIsWhatRunTells(t *testing.T) {
	w := newJudged(t)
	w.checked(func(_ context.Context, node string, ids []string) ([]*taskpb.CheckResult, error) {
		if node == w.manager {
			said := well(true, ids)
			said[0].Outcome = "waived" // it is not a node's to say
			return said[:len(said)-1], nil
		}
		return nil, errors.New("the node is not connected")
	})
	s := &sink[controlpb.RunComplianceResponse]{ctx: t.Context()}
	if err := w.api.RunCompliance(&controlpb.RunComplianceRequest{}, s); err != nil {
		t.Fatal(err)
	}
	resp, err := w.sign("")
	if err != nil {
		t.Fatal(err)
	}
	r, _ := w.signed(resp.GetReport(), resp.GetKeys())
	told, signed := map[string]string{}, map[string]string{}
	for _, x := range s.pages {
		if slices.Contains([]string{"pass", "fail", "error", "not-applicable"}, x.GetOutcome()) {
			told[x.GetId()+" "+x.GetNode()] = x.GetOutcome()
		} else {
			told[x.GetId()+" "+x.GetNode()] = "error"
		}
	}
	nodes := map[string]int{}
	for _, x := range r.Results {
		of := ""
		if x.Target.Kind == "node" {
			of = x.Target.ID
			if nodes[of]++; of == w.worker && x.Outcome != checks.Error {
				t.Errorf("%s of a node that is away: %s", x.Control, x.Outcome)
			}
		}
		signed[x.Control+" "+of] = string(x.Outcome)
	}
	if !maps.Equal(told, signed) || nodes[w.manager] != 22 || nodes[w.worker] != 22 || r.Compliant {
		t.Errorf("a run tells %v, and signed is %v", told, signed)
	}
}

// TestSignComplianceRefuses: nothing is kept that was not signed, or not as it should
// be, or behind another report than the last.
func TestSignComplianceRefuses(t *testing.T) {
	w := newJudged(t)
	for _, name := range []string{"nothing", "/etc/passwd.yaml", "./own.yaml", "../redoubt-baseline"} {
		if _, err := w.sign(name); err == nil || !strings.Contains(err.Error(), "no profile that the leader has") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if w.keyd.asked > 0 {
		t.Error("keyd was asked")
	}
	if _, err := w.api.SignCompliance(t.Context(), &controlpb.SignComplianceRequest{}); err == nil {
		t.Error("nobody asked, and it is made")
	}
	for name, c := range map[string]struct {
		set  func()
		want string
	}{
		"keyd is locked":      {func() { w.keyd.fail = errors.New("it is locked\nand more") }, "keyd signed no report: it is locked"},
		"of another cluster":  {func() { w.keyd.cluster = w.worker }, "what keyd signed is no report"},
		"of another report":   {func() { w.keyd.change = func(s *signedreport.Statement) { s.SHA256[0] ^= 1 } }, "the report was changed"},
		"with another number": {func() { w.keyd.change = func(s *signedreport.Statement) { s.Number, s.Previous = 50, s.SHA256 } }, "it has the number 50, not "},
		"another one was made": {func() {
			leads, next := w.api, w.another()
			w.keyd.meanwhile = func() { w.keyd.meanwhile, w.api = nil, next; w.mustSign(); w.api = leads }
		}, "another report was signed meanwhile"},
	} {
		w.keyd.change, w.keyd.fail, w.keyd.meanwhile, w.keyd.cluster = nil, nil, nil, w.ca.ClusterID
		before := len(w.kept())
		if name == "another one was made" {
			before++
		}
		c.set()
		if _, err := w.sign(""); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if after := len(w.kept()); after != before {
			t.Errorf("%s: %d reports are kept, not %d", name, after, before)
		}
	}
}

// another is a server of the same store: that of the manager that leads next.
func (w *judged) another() *control.Server {
	was := w.api
	w.lookedAt(nil)
	next := w.api
	w.api = was
	return next
}

func (w *judged) mustSign() {
	w.t.Helper()
	if _, err := w.sign(""); err != nil {
		w.t.Error(err)
	}
}

// TestComplianceSchedule: a report is made when it is due, once, and again after what
// failed; how many are kept goes for all.
func TestComplianceSchedule(t *testing.T) {
	w := newJudged(t)
	w.mustSign()
	w.mustSign()
	due := func(want int) {
		t.Helper()
		err := w.api.ReportIfDue(t.Context())
		if err != nil && w.keyd.fail == nil {
			t.Fatal(err)
		}
		if got := w.kept(); len(got) != want {
			t.Errorf("kept are %v, not %d", got, want)
		}
	}
	due(2) // there is no schedule
	for _, bad := range []*controlpb.SetComplianceScheduleRequest{{Every: -1}, {Every: 60}, {Every: 1 << 62}, {Every: 367 * 86400}, {Every: 86400, Keep: 33}, {Every: 86400, Profile: "/etc/x.yaml"}} {
		if _, err := w.api.SetComplianceSchedule(t.Context(), bad); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
	set := func(every int64, keep uint32) {
		t.Helper()
		if _, err := w.api.SetComplianceSchedule(t.Context(), &controlpb.SetComplianceScheduleRequest{Every: every, Keep: keep}); err != nil {
			t.Fatal(err)
		}
	}
	set(86400, 3)
	w.keyd.fail = errors.New("it is locked")
	due(2)
	w.keyd.fail = nil
	due(3)
	due(3)
	resp, err := w.api.ListReports(t.Context(), &controlpb.ListReportsRequest{})
	if err != nil || resp.GetReports()[0].GetAskedBy() != "schedule" || resp.GetProfile() != "redoubt-baseline" || resp.GetKeep() != 3 {
		t.Errorf("%v, %v", resp, err)
	}
	if left := time.Until(time.Unix(resp.GetNext(), 0)); left < 23*time.Hour || left > 25*time.Hour {
		t.Errorf("the next is due in %v", left)
	}
	// Long after: one report, and not one of each day that nobody led.
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		rec, _ := pkistore.Reporting.Get(tx, pkistore.ReportingID)
		rec = proto.CloneOf(rec)
		rec.Next -= 10 * 86400
		return pkistore.Reporting.Put(tx, rec)
	})
	due(3)
	due(3)
	if got := w.kept(); got[0] != 4 || got[2] != 2 {
		t.Errorf("kept are %v", got)
	}
	set(0, 1)
	due(1)
	w.mustSign()
	if got := w.kept(); len(got) != 1 || got[0] != 5 {
		t.Errorf("kept are %v", got)
	}
}
