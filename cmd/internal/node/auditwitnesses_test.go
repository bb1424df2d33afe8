package node

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/tlogwitness/tlogwitnesstest"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

const outsideName = "witness.example/w1"

// witnessWorld is a manager that leads and has one witness outsideName, over TLS.
type witnessWorld struct {
	*checkWorld
	k       *rootKeyd
	t       *testing.T
	w       *tlogwitnesstest.Witness
	dir     string
	resting map[string]rest

	mu    sync.Mutex       // guards the rest
	as    http.HandlerFunc // what answers in the witness's place; nil: the witness
	asked int              // how often
}

func newWitnessWorld(t *testing.T) *witnessWorld {
	t.Helper()
	w := &witnessWorld{t: t, dir: t.TempDir(), resting: map[string]rest{}}
	w.checkWorld, w.k = newCheckWorld(t)
	w.record(t, "one")
	w.checkpoint()
	w.reopen()
	s := httptest.NewTLSServer(http.HandlerFunc(w.serve))
	t.Cleanup(s.Close)
	w.set(&pkipb.AuditWitness{Id: outsideName, Url: s.URL, Key: w.w.Key(), Ca: [][]byte{s.Certificate().Raw}})
	return w
}

// reopen has the witness go on from what is on its disk, and trust the log's key.
func (w *witnessWorld) reopen() {
	w.t.Helper()
	var err error
	if w.w, err = tlogwitnesstest.New(w.dir, outsideName); err == nil {
		err = w.w.Trust(checkpoint.ClusterKey(w.newest(), w.k.key.Public().(ed25519.PublicKey)))
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *witnessWorld) serve(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	as := w.as
	w.asked++
	w.mu.Unlock()
	if as != nil {
		as(rw, r)
		return
	}
	w.w.ServeHTTP(rw, r)
}

func (w *witnessWorld) times() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked
}

// answers has somebody answer in the witness's place; nil: the witness.
func (w *witnessWorld) answers(as http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.as = as
}

func (w *witnessWorld) set(rec *pkipb.AuditWitness) {
	w.t.Helper()
	if err := w.m.store.Update(w.t.Context(), func(tx *raftstore.Tx) error { return pkistore.AuditWitnesses.Put(tx, rec) }); err != nil {
		w.t.Fatal(err)
	}
}

func (w *witnessWorld) checkpoint() {
	w.t.Helper()
	if err := w.m.makeCheckpoint(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *witnessWorld) newest() checkpoint.Checkpoint {
	w.t.Helper()
	_, signed := w.kept(w.t)
	return signed.Checkpoint
}

// show shows the newest checkpoint, with nobody resting, and returns what is on record.
func (w *witnessWorld) show() *pkipb.AuditWitnessed {
	w.t.Helper()
	clear(w.resting)
	if _, err := w.m.showWitnesses(w.t.Context(), w.resting); err != nil {
		w.t.Fatal(err)
	}
	return w.said()
}

func (w *witnessWorld) said() (l *pkipb.AuditWitnessed) {
	w.t.Helper()
	if err := w.m.store.View(func(r *raftstore.ReadTx) error {
		l, _ = pkistore.AuditWitnessed.Get(r, outsideName)
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	return l
}

// cosigned fails unless the newest checkpoint is cosigned by what is on record.
func (w *witnessWorld) cosigned(l *pkipb.AuditWitnessed) {
	w.t.Helper()
	c := w.newest()
	by, err := checkpoint.Witnesses(append(append([]byte(nil), l.GetNote()...), l.GetLine()...), []string{w.w.Key()})
	if err != nil || len(by) != 1 || l.GetSize() != c.Size || l.GetIncarnation() != 1 || string(checkpoint.TextOf(l.GetNote())) != string(c.Text()) || l.GetFailure() != "" || l.GetFailedAt() != 0 || by[0].At.Unix() != l.GetAt() {
		w.t.Fatalf("%v, %v: %v", by, err, l)
	}
}

func (w *witnessWorld) records() (out []*auditpb.Record) {
	w.t.Helper()
	r, err := w.m.store.Records()
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range r.Log.Size() {
		e, err := r.Entry(i)
		if err != nil {
			w.t.Fatal(err)
		}
		rec := &auditpb.Record{}
		if proto.Unmarshal(e.Record, rec) == nil && rec.GetMethod() == "audit witnesses" {
			out = append(out, rec)
		}
	}
	return out
}

// TestWitness: a witness cosigns what grows, from wherever it is; a log at rest is left
// at rest, and is shown again before the witness's word is old.
func TestWitness(t *testing.T) {
	w := newWitnessWorld(t)
	w.cosigned(w.show())
	first := w.said()
	w.show()
	if l := w.said(); l.GetMeta().GetVersion() != first.GetMeta().GetVersion() {
		t.Error("a checkpoint that was cosigned was shown again")
	}
	for i := range 5 {
		w.record(t, fmt.Sprint("more ", i))
		w.checkpoint()
		before := w.times()
		if w.cosigned(w.show()); w.times() != before+1 {
			t.Errorf("it was asked %d times, and what it cosigned is known", w.times()-before)
		}
	}
	if n := len(w.records()); n != 0 {
		t.Errorf("cosignatures have %d records", n)
	}
	// It lost what it knew: it is shown the whole.
	w.dir = t.TempDir()
	was := w.w.Key()
	w.reopen()
	set := w.said()
	if w.w.Key() == was {
		t.Fatal("the same key")
	}
	w.record(t, "for another")
	w.checkpoint()
	if l := w.show(); !strings.Contains(l.GetFailure(), "no cosignature of the checkpoint by its key") || l.GetLine() != set.GetLine() {
		t.Errorf("another key's is taken: %v", l)
	}
	// Its word is of long ago.
	rec := w.witness()
	rec.Key = w.w.Key()
	w.set(rec)
	w.cosigned(w.show())
	l := proto.CloneOf(w.said())
	l.At -= int64(rewitnessAfter/time.Second) + 1
	if err := w.m.store.Update(t.Context(), func(tx *raftstore.Tx) error { return pkistore.AuditWitnessed.Put(tx, l) }); err != nil {
		t.Fatal(err)
	}
	if again := w.show(); again.GetAt() <= l.GetAt() {
		t.Error("an old word is not renewed")
	}
}

// TestKeptIsNone: what a former leader left in the place of the newest checkpoint, which
// has no record, keeps no other from being made, nor the leader from leading.
func TestKeptIsNone(t *testing.T) {
	w := newWitnessWorld(t)
	w.checkpoint() // with the record of the keys
	w.cosigned(w.show())
	good := w.newest()
	other := good
	other.Size = 1 << 40
	for name, bad := range map[string]*pkipb.AuditCheckpoint{
		"no note":            {Size: 1 << 62, Note: []byte("x")},
		"nothing":            {Size: good.Size},
		"more than there is": {Size: other.Size, Note: checkpoint.Note(other)},
	} {
		if err := w.m.store.Update(t.Context(), func(tx *raftstore.Tx) error {
			rec, _ := pkistore.AuditCheckpoints.Get(tx, pkistore.CheckpointID)
			return pkistore.AuditCheckpoints.Put(tx, &pkipb.AuditCheckpoint{Meta: rec.GetMeta(), Id: rec.GetId(), Size: bad.Size, Note: bad.Note})
		}); err != nil {
			t.Fatal(err)
		}
		w.show()
		w.checkpoint()
		if c := w.newest(); c != good {
			t.Errorf("%s: the newest checkpoint is %+v", name, c)
		}
	}
}

func (w *witnessWorld) witness() (rec *pkipb.AuditWitness) {
	w.t.Helper()
	if err := w.m.store.View(func(r *raftstore.ReadTx) error {
		rec, _ = pkistore.AuditWitnesses.Get(r, outsideName)
		rec = proto.CloneOf(rec)
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	return rec
}

// TestWitnessElsewhere: a witness that cosigned another number of records than was
// thought is asked from there, once.
func TestWitnessElsewhere(t *testing.T) {
	w := newWitnessWorld(t)
	w.cosigned(w.show())
	early := w.said()
	for range 3 {
		w.record(t, "more")
	}
	w.checkpoint()
	w.cosigned(w.show())
	// What this leader knows of it is old, as where another one asked it.
	l := proto.CloneOf(w.said())
	l.Size, l.Note, l.Line = early.GetSize(), early.GetNote(), early.GetLine()
	if err := w.m.store.Update(t.Context(), func(tx *raftstore.Tx) error { return pkistore.AuditWitnessed.Put(tx, l) }); err != nil {
		t.Fatal(err)
	}
	w.record(t, "more")
	w.checkpoint()
	w.cosigned(w.show())
	// It cosigned more than the newest checkpoint is of, and not more than there is.
	size := w.newest().Size
	w.record(t, "unsigned")
	w.answers(conflict(fmt.Sprint(size+1, "\n")))
	l = proto.CloneOf(w.said())
	l.At = 0
	if err := w.m.store.Update(t.Context(), func(tx *raftstore.Tx) error { return pkistore.AuditWitnessed.Put(tx, l) }); err != nil {
		t.Fatal(err)
	}
	if l := w.show(); l.GetAlarm() != nil || !strings.Contains(l.GetFailure(), "it is asked again with the next one") {
		t.Errorf("%v", l)
	}
}

func conflict(body string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/x.tlog.size")
		rw.WriteHeader(http.StatusConflict)
		rw.Write([]byte(body))
	}
}

// TestWitnessRefusals: what is no cosignature is told in words and keeps the last one;
// what says that there is another log is an alarm besides, which has a record, once, and
// stands.
func TestWitnessRefusals(t *testing.T) {
	status := func(code int) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(code) }
	}
	for name, c := range map[string]struct {
		answer func(*witnessWorld) http.HandlerFunc
		want   string
		alarm  bool
	}{
		"it knows more than there is": {func(w *witnessWorld) http.HandlerFunc { return conflict("1000\n") }, "it cosigned 1000 records, and there are", true},
		"the proof does not hold":     {func(w *witnessWorld) http.HandlerFunc { return status(422) }, "does not hold", true},
		"it says two things":          {func(w *witnessWorld) http.HandlerFunc { return alternately("2\n", "3\n") }, "and then that it cosigned", false},
		"it says what was thought":    {func(w *witnessWorld) http.HandlerFunc { return conflict(fmt.Sprint(w.said().GetSize(), "\n")) }, "does not say how many", false},
		"it says no number":           {func(w *witnessWorld) http.HandlerFunc { return status(409) }, "does not say how many", false},
		"rubbish":                     {func(w *witnessWorld) http.HandlerFunc { return conflict("many\n") }, "cannot be read", false},
		"no log":                      {func(w *witnessWorld) http.HandlerFunc { return status(404) }, "does not know this log", false},
		"no key":                      {func(w *witnessWorld) http.HandlerFunc { return status(403) }, "does not take this log's key", false},
		"a fault":                     {func(w *witnessWorld) http.HandlerFunc { return status(500) }, "it answers 500", false},
		"no signature":                {func(w *witnessWorld) http.HandlerFunc { return status(200) }, "no cosignature", false},
		"another's word": {func(w *witnessWorld) http.HandlerFunc {
			old := w.said().GetLine()
			return func(rw http.ResponseWriter, _ *http.Request) { rw.Write([]byte(old)) }
		}, "no cosignature", false},
		"a clock that is off": {func(w *witnessWorld) http.HandlerFunc {
			w.w.SetClock(func() time.Time { return time.Now().Add(-time.Hour) })
			return nil
		}, "its clock is off", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWitnessWorld(t)
			w.cosigned(w.show())
			before := w.said()
			w.record(t, "more")
			w.checkpoint()
			w.answers(c.answer(w))
			l := w.show()
			if !strings.Contains(l.GetFailure(), c.want) || l.GetLine() != before.GetLine() || l.GetSize() != before.GetSize() || l.GetFailedAt() == 0 || (l.GetAlarm() != nil) != c.alarm {
				t.Fatalf("%v, want %q", l, c.want)
			}
			r := w.resting[outsideName]
			if wait := time.Until(r.until); r.times != 1 || wait > witnessRetry || wait < witnessRetry/4 {
				t.Errorf("it rests for %v", wait)
			}
			w.show()
			recs := w.records()
			if !c.alarm {
				if len(recs) != 0 {
					t.Errorf("%v", recs)
				}
				w.answers(nil)
				w.w.SetClock(time.Now)
				w.cosigned(w.show())
				return
			}
			if len(recs) != 1 || !strings.Contains(fmt.Sprint(recs[0]), c.want) || l.GetAlarm().GetReason() != l.GetFailure() || l.GetAlarm().GetAt() == 0 || l.GetAlarm().GetSize() != w.newest().Size {
				t.Errorf("%v, %v", recs, l.GetAlarm())
			}
			// An alarm outlives the answer that it was.
			w.checkpoint()
			w.answers(nil)
			w.cosigned(w.show())
			if w.said().GetAlarm() == nil {
				t.Error("the alarm went by itself")
			}
		})
	}
}

// alternately says one size and then the next.
func alternately(sizes ...string) http.HandlerFunc {
	n := 0
	return func(rw http.ResponseWriter, r *http.Request) {
		conflict(sizes[n%len(sizes)])(rw, r)
		n++
	}
}

// TestWitnessOfAnotherLog: a log that does not go on from what a witness cosigned is
// refused by the witness itself, though keyd signed it.
func TestWitnessOfAnotherLog(t *testing.T) {
	w, other := newWitnessWorld(t), newWitnessWorld(t)
	w.cosigned(w.show())
	*other.k = rootKeyd{cluster: w.k.cluster, node: other.k.node, key: w.k.key, own: w.k.own}
	other.m.n.self.ClusterID = w.k.cluster
	other.w = w.w
	for range 3 {
		other.record(t, "what never was")
	}
	other.forget()
	other.checkpoint()
	// The forger knows what the witness cosigned last, or finds out.
	for _, size := range []uint64{w.newest().Size, 0} {
		if err := other.m.store.Update(t.Context(), func(tx *raftstore.Tx) error {
			last, _ := pkistore.AuditWitnessed.Get(tx, outsideName)
			return pkistore.AuditWitnessed.Put(tx, &pkipb.AuditWitnessed{Meta: last.GetMeta(), Id: outsideName, Size: size, Incarnation: 1})
		}); err != nil {
			t.Fatal(err)
		}
		if l := other.show(); l.GetAlarm() == nil || !strings.Contains(l.GetFailure(), "another log than this one") || l.GetLine() != "" {
			t.Errorf("from %d: %v", size, l)
		}
	}
	if got := w.w.Size(w.newest().Origin()); got != int64(w.newest().Size) {
		t.Errorf("the witness cosigned %d records", got)
	}
}

// forget takes the checkpoint and keys away that there are.
func (w *witnessWorld) forget() {
	w.t.Helper()
	if err := w.m.store.Update(w.t.Context(), func(tx *raftstore.Tx) error {
		for k := range pkistore.AuditKeys.All(tx) {
			if err := pkistore.AuditKeys.Delete(tx, k.GetId()); err != nil {
				return err
			}
		}
		rec := w.witnessIn(tx)
		rec.Key = w.w.Key()
		if err := pkistore.AuditWitnesses.Put(tx, rec); err != nil {
			return err
		}
		return pkistore.AuditCheckpoints.Delete(tx, pkistore.CheckpointID)
	}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *witnessWorld) witnessIn(r raftstore.Reader) *pkipb.AuditWitness {
	rec, _ := pkistore.AuditWitnesses.Get(r, outsideName)
	return proto.CloneOf(rec)
}

// TestKeepWitnessed: a new checkpoint is shown at once, a witness that rests is not asked
// before its time, and is where it is set anew; nobody is left behind at the end.
func TestKeepWitnessed(t *testing.T) {
	w := newWitnessWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.m.keepWitnessed(ctx) }()
	until := func(what string, ok func(*pkipb.AuditWitnessed) bool) {
		t.Helper()
		watch, err := w.m.store.Watch(nil, pkistore.AuditWitnessed)
		if err != nil {
			t.Fatal(err)
		}
		defer watch.Close()
		wait, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		for !ok(w.said()) {
			if _, err := watch.Next(wait); err != nil {
				t.Fatalf("%s: %v: %v", what, err, w.said())
			}
		}
	}
	size := w.newest().Size
	until("the first one", func(l *pkipb.AuditWitnessed) bool { return l.GetSize() == size })
	w.record(t, "more")
	w.checkpoint()
	size = w.newest().Size
	until("the next one", func(l *pkipb.AuditWitnessed) bool { return l.GetSize() == size })
	w.answers(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(500) })
	w.record(t, "more")
	w.checkpoint()
	until("a refusal", func(l *pkipb.AuditWitnessed) bool { return l.GetFailure() == "it answers 500" })
	w.answers(nil)
	began := time.Now()
	rec := w.witness()
	rec.SetAt++
	w.set(rec)
	size = w.newest().Size
	until("set anew", func(l *pkipb.AuditWitnessed) bool { return l.GetSize() == size })
	if took := time.Since(began); took > witnessRetry/2 {
		t.Errorf("it was asked after %v", took)
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("it ended without a reason")
	}
}

func TestRest(t *testing.T) {
	now := time.Now()
	var r rest
	for i := range 20 {
		r = r.again(7, now)
		most := min(witnessRetry<<i, checkpointInterval)
		if most <= 0 {
			most = checkpointInterval
		}
		if d := r.until.Sub(now); d < most/2 || d > most {
			t.Errorf("after %d times: %v, want %v at most", i+1, d, most)
		}
	}
	if r = r.again(8, now); r.times != 1 {
		t.Errorf("set anew, it rests as before: %+v", r)
	}
}
