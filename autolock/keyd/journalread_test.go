package keyd

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
)

// follower reads a keyd's journal as it grows.
type follower struct {
	k    *instance
	req  keydpb.ReadJournalRequest
	seen []*keydpb.JournalLine
}

// read reads all there is, and reports whether any was lost.
func (f *follower) read(t *testing.T) (lost bool) {
	t.Helper()
	for {
		resp, err := f.k.ReadJournal(t.Context(), &f.req)
		if err != nil {
			t.Fatal(err)
		}
		lost = lost || resp.GetLost()
		if len(resp.GetLines()) == 0 {
			return lost
		}
		last := resp.GetLines()[len(resp.GetLines())-1]
		f.req.Seq, f.req.Hash, f.req.At = last.GetSeq(), last.GetHash(), last.GetAt()
		f.seen = append(f.seen, resp.GetLines()...)
	}
}

// newest is the last line that was read.
func (f *follower) newest(t *testing.T) string {
	t.Helper()
	l := f.seen[len(f.seen)-1]
	return l.GetEvent() + " " + l.GetOutcome()
}

func TestReadJournal(t *testing.T) {
	c := newCluster(t)
	f := &follower{k: c.instance}
	if f.read(t) || len(f.seen) == 0 || f.seen[0].GetSeq() != 1 {
		t.Fatalf("from the beginning: %v", f.seen)
	}
	n := len(f.seen)
	if f.read(t) || len(f.seen) != n {
		t.Fatal("lines come twice")
	}
	if err := c.NoteRefused(t.Context(), []*keydpb.RefusedCall{{Method: "Control/RemoveNode", Caller: "node x", Address: "192.0.2.1", Reason: "no\nway", Times: 3}}); err != nil {
		t.Fatal(err)
	}
	if f.read(t) || len(f.seen) != n+1 || f.newest(t) != "refused denied" || f.seen[n].GetDetail() != "Control/RemoveNode, 3 times: node x from 192.0.2.1: no way" {
		t.Fatalf("a refused call: %v", f.seen[n:])
	}
	// Over a restart, and what was written while locked.
	c.restart(t)
	f.k = c.instance
	if _, err := f.k.ReadJournal(t.Context(), &f.req); err == nil {
		t.Error("it is read while locked")
	}
	other := autolock.NewOperatorKey()
	f.k.root.Unlock(t.Context(), other.Seed())
	if _, err := f.k.root.Unlock(t.Context(), c.key.Seed()); err != nil {
		t.Fatal(err)
	}
	if f.read(t) || len(f.seen) != n+3 || f.seen[n+1].GetOutcome() != outcomeWrongKey || f.newest(t) != "unlock ok" {
		t.Fatalf("after a restart: %v", f.seen[n:])
	}
	for i, l := range f.seen {
		if l.GetSeq() != uint64(i+1) || i > 0 && !bytes.Equal(l.GetPrev(), f.seen[i-1].GetHash()) {
			t.Fatalf("line %d is %v", i, l)
		}
	}
	if err := f.k.NoteRefused(t.Context(), make([]*keydpb.RefusedCall, maxRefused+1)); err == nil {
		t.Error("more calls than there may be")
	}
	if err := f.k.NoteRefused(t.Context(), make([]*keydpb.RefusedCall, maxRefused-2)); err != nil {
		t.Error(err)
	}
	if err := f.k.NoteRefused(t.Context(), make([]*keydpb.RefusedCall, 20)); keydclient.CodeOf(err) != keydpb.Code_CODE_RATE_LIMITED {
		t.Errorf("more calls than the rate allows: %v", err)
	}
	if f.read(t) || len(f.seen) < n+3+maxRefused-2 {
		t.Errorf("%d lines", len(f.seen))
	}
}

// TestReadJournalOverFiles: the journal goes on in the next file, and a reader in it.
func TestReadJournalOverFiles(t *testing.T) {
	dir := t.TempDir()
	j, _, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	j.key = []byte("a key of 112 bits or more")
	var hashes []string
	for i := range 12 {
		if i%4 == 0 {
			j.size = maxJournal
		}
		if err := j.add(entry{Event: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, j.last)
	}
	for i, h := range hashes {
		lines, found, err := j.since(uint64(i+1), h, 0)
		if err != nil || !found || len(lines) != 11-i {
			t.Errorf("behind line %d: %d lines, %t, %v", i+1, len(lines), found, err)
		}
		if _, found, _ := j.since(uint64(i+2), h, 0); found {
			t.Errorf("line %d with another number is found", i+1)
		}
	}
	if lines, found, err := j.since(0, "", 0); err != nil || !found || len(lines) != 12 {
		t.Errorf("all: %d, %t, %v", len(lines), found, err)
	}
	// An older file was changed: what is behind it is there, what is in it is not.
	old, _ := filepath.Glob(j.path + ".*.old")
	raw, err := os.ReadFile(old[len(old)-1])
	if err != nil {
		t.Fatal(err)
	}
	raw[bytes.Index(raw, []byte(`"event":"5"`))] ^= 1
	if err := os.WriteFile(old[len(old)-1], raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if lines, found, err := j.since(2, hashes[1], math.MinInt64); err != nil || found || len(lines) > 7 || len(lines) < 4 {
		t.Errorf("over a changed file: %d lines, %t, %v", len(lines), found, err)
	}
}

// TestJournalThatWasCutIsTold: from its end, from its beginning, in its midst, or all of it,
// while keyd was off or while it ran.
func TestJournalThatWasCutIsTold(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, path string, raw []byte){
		"cut": func(t *testing.T, path string, raw []byte) {
			rewriteFile(t, path, raw[:bytes.LastIndexByte(raw[:len(raw)-1], '\n')+1])
		},
		"removed": func(t *testing.T, path string, _ []byte) { os.Remove(path) },
		"changed": func(t *testing.T, path string, raw []byte) {
			copy(raw[bytes.LastIndex(raw, []byte(`"event":"refused"`)):], `"event":"renewed"`)
			rewriteFile(t, path, raw)
		},
	} {
		for _, running := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, running %t", name, running), func(t *testing.T) {
				c := newCluster(t)
				f := &follower{k: c.instance}
				note := func() {
					t.Helper()
					if err := f.k.NoteRefused(t.Context(), []*keydpb.RefusedCall{{Reason: "it was not"}}); err != nil {
						t.Fatal(err)
					}
				}
				note()
				f.read(t)
				before := len(f.seen)
				if running {
					note()
				} else {
					c.stop()
				}
				change(t, filepath.Join(c.dir, journalName), readJournal(t, c.dir))
				if !running {
					f.k = start(t, c.dir)
					if _, err := f.k.root.Unlock(t.Context(), c.key.Seed()); err != nil {
						t.Fatal(err)
					}
				}
				if !f.read(t) {
					t.Fatal("it is not told")
				}
				for _, l := range f.seen[before:] {
					for _, o := range f.seen[:before] {
						if l.GetAt() == o.GetAt() {
							t.Errorf("%v comes twice", l)
						}
					}
				}
				if f.read(t) {
					t.Error("it is told for ever")
				}
				note()
				if f.read(t) || f.newest(t) != "refused denied" {
					t.Errorf("it does not go on: %v", f.seen[before:])
				}
			})
		}
	}
}

func rewriteFile(t *testing.T, path string, raw []byte) {
	t.Helper()
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// written makes a journal of so many lines in each of some files, the oldest first.
func written(t testing.TB, counts ...int) *journal {
	t.Helper()
	j := &journal{path: filepath.Join(t.TempDir(), journalName), key: make([]byte, 32)}
	for f, n := range counts {
		var raw bytes.Buffer
		raw.WriteString(journalMagic)
		for range n {
			body := fmt.Appendf(nil, `{"seq":%d,"time":"2026-11-23T06:11:28.%09dZ","event":"sign-renew","outcome":"ok","prev":"%s"}`, j.seq+1, j.seq+1, j.last)
			j.seq, j.last = j.seq+1, journalHash(body)
			fmt.Fprintf(&raw, "%s %s %s\n", body, j.last, journalMAC(j.key, j.last))
		}
		path := j.path
		if f < len(counts)-1 {
			path = fmt.Sprintf("%s.%020d.old", j.path, f)
		}
		if err := os.WriteFile(path, raw.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		j.size = int64(raw.Len())
	}
	return j
}

// TestReadJournalFarBehind: whoever is further behind than one answer has lines gets
// all of them, the oldest first, through all files, also from the beginning.
func TestReadJournalFarBehind(t *testing.T) {
	j := written(t, 3000, 1, 4000, 1500)
	const all = 3000 + 1 + 4000 + 1500 // more than 8,192
	hashes := map[uint64]string{}
	read := func(seq uint64, hash string) (n int) {
		t.Helper()
		for {
			lines, found, err := j.since(seq, hash, 0)
			if err != nil || !found || len(lines) > maxRead {
				t.Fatalf("behind line %d: %d lines, %t, %v", seq, len(lines), found, err)
			}
			if len(lines) == 0 {
				return n
			}
			for _, l := range lines {
				if l.Seq != seq+1 || l.Prev != hash {
					t.Fatalf("line %d comes behind line %d", l.Seq, seq)
				}
				seq, hash = l.Seq, l.hash
				hashes[seq] = hash
				n++
			}
		}
	}
	if n := read(0, ""); n != all {
		t.Errorf("%d of %d lines", n, all)
	}
	for _, behind := range []uint64{1, 8193, maxRead, maxRead + 1, all - 1} {
		if n := read(all-behind, hashes[all-behind]); n != int(behind) {
			t.Errorf("%d lines behind: %d", behind, n)
		}
	}
	// A line that is not there: of what there is, only what is younger than it.
	lines, found, err := j.since(77, hashes[78], timeOf(t, j, 8000))
	if err != nil || found || len(lines) != maxRead || lines[0].Seq != 8001 {
		t.Errorf("behind a line that is not there: %d lines, %t, %v", len(lines), found, err)
	}
}

// timeOf is when a line was written.
func timeOf(t *testing.T, j *journal, seq uint64) int64 {
	t.Helper()
	for at, hash := uint64(0), ""; ; {
		lines, _, err := j.since(at, hash, 0)
		if err != nil || len(lines) == 0 {
			t.Fatalf("no line %d: %v", seq, err)
		}
		for _, l := range lines {
			if at, hash = l.Seq, l.hash; at == seq {
				return l.Time.UnixNano()
			}
		}
	}
}

// BenchmarkReadJournal reads one new line of a journal that is full.
func BenchmarkReadJournal(b *testing.B) {
	j := &journal{path: filepath.Join(b.TempDir(), journalName), key: make([]byte, 32)}
	var raw bytes.Buffer
	raw.WriteString(journalMagic)
	for raw.Len() < maxJournal {
		body := fmt.Appendf(nil, `{"seq":%d,"time":"2026-11-23T06:11:28.62085084Z","event":"sign-renew","outcome":"ok","prev":"%s"}`, j.seq+1, j.last)
		j.seq, j.last = j.seq+1, journalHash(body)
		fmt.Fprintf(&raw, "%s %s %s\n", body, j.last, journalMAC(j.key, j.last))
	}
	if err := os.WriteFile(j.path, raw.Bytes(), 0o600); err != nil {
		b.Fatal(err)
	}
	seq, hash := j.seq, j.last
	if err := j.add(entry{Event: "e"}); err != nil {
		b.Fatal(err)
	}
	if _, err := hex.DecodeString(hash); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if lines, found, err := j.since(seq, hash, 0); err != nil || !found || len(lines) != 1 {
			b.Fatal(lines, found, err)
		}
	}
}
