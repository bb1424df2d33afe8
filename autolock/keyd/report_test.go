package keyd

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/signedreport"
)

// TestSignReport: what keyd signs names its own cluster, manager and audit log, and
// what it does not know of a log is not signed.
func TestSignReport(t *testing.T) {
	c := newCluster(t)
	sum, before := sha256.Sum256([]byte("report")), sha256.Sum256([]byte("before"))
	first := &keydpb.SignReportRequest{Sha256: sum[:], Number: 1}
	_, err := c.SignReport(t.Context(), first)
	wantCode(t, err, keydpb.Code_CODE_DENIED) // no checkpoint yet
	l := logOf(t, records(9)...)
	root := l.request(t, 0, 5).GetRoot()
	cp := c.signed(t, l.request(t, 0, 5))

	signed := func(req *keydpb.SignReportRequest) signedreport.Statement {
		t.Helper()
		resp, err := c.SignReport(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if string(resp.GetKey()) == string(cp.GetKey()) || string(resp.GetKey()) == string(cp.GetOwnKey()) {
			t.Error("a key of checkpoints signs reports")
		}
		msg, err := signedreport.Envelope(c.init.ClusterId, resp.GetStatement(), resp.GetKey(), resp.GetSignature())
		if err != nil {
			t.Fatal(err)
		}
		st, err := signedreport.Open(msg, []string{signedreport.Key(c.init.ClusterId, resp.GetKey())})
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	st := signed(first)
	if time.Since(st.Signed) > time.Minute || st.Signed.After(time.Now()) {
		t.Errorf("signed at %v", st.Signed)
	}
	st.Signed = time.Time{}
	if want := (signedreport.Statement{SHA256: sum, Cluster: c.init.ClusterId, Manager: c.nodeID, Incarnation: 1, Number: 1, Records: 5, Root: [32]byte(root)}); st != want {
		t.Errorf("%+v, want %+v", st, want)
	}
	c.signed(t, l.request(t, 5, 9))
	if st := signed(&keydpb.SignReportRequest{Sha256: sum[:], Number: 7, Previous: before[:]}); st.Previous != before || st.Number != 7 || st.Records != 9 {
		t.Errorf("%+v", st)
	}

	for name, req := range map[string]*keydpb.SignReportRequest{
		"nothing":                    {},
		"no hash":                    {Number: 1},
		"a short hash":               {Sha256: sum[:31], Number: 1},
		"number 0":                   {Sha256: sum[:]},
		"something before the first": {Sha256: sum[:], Number: 1, Previous: before[:]},
		"nothing before the second":  {Sha256: sum[:], Number: 2},
		"a short hash before":        {Sha256: sum[:], Number: 2, Previous: before[:31]},
		"zeros before":               {Sha256: sum[:], Number: 2, Previous: make([]byte, 32)},
	} {
		if resp, err := c.SignReport(t.Context(), req); codeName(err) != keydpb.Code_CODE_INVALID || resp != nil {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
	}
	journal, err := os.ReadFile(filepath.Join(c.dir, journalName))
	if err != nil || strings.Count(string(journal), `"event":"sign-report","outcome":"ok"`) != 2 {
		t.Errorf("the journal says %s, %v", journal, err)
	}

	c.restart(t)
	_, err = c.SignReport(t.Context(), first)
	wantCode(t, err, keydpb.Code_CODE_LOCKED)
	c.unlock(t)
	for range reportRate.burst {
		if _, err = c.SignReport(t.Context(), first); err != nil {
			break
		}
	}
	_, err = c.SignReport(t.Context(), first)
	wantCode(t, err, keydpb.Code_CODE_RATE_LIMITED)
}

// TestSignReportOfAnotherIncarnation wants a checkpoint of this one.
func TestSignReportOfAnotherIncarnation(t *testing.T) {
	c := newCluster(t)
	l := logOf(t, records(9)...)
	c.signed(t, l.request(t, 0, 5))
	if _, err := c.asRoot(authorize(c.key.Seed())); err != nil {
		t.Fatal(err)
	}
	if err := c.RaiseIncarnation(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("report"))
	_, err := c.SignReport(t.Context(), &keydpb.SignReportRequest{Sha256: sum[:], Number: 1})
	wantCode(t, err, keydpb.Code_CODE_DENIED)
	if err := os.WriteFile(filepath.Join(c.dir, checkpointName), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = c.SignReport(t.Context(), &keydpb.SignReportRequest{Sha256: sum[:], Number: 1})
	wantCode(t, err, keydpb.Code_CODE_DAMAGED)
}
