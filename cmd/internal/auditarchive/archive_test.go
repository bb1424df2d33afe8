package auditarchive

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
)

const cluster, other = "abcdefghijklmnopqrstuvwxya", "bbcdefghijklmnopqrstuvwxya"

// signer signs checkpoints as keyd does.
type signer struct {
	cluster string
	private ed25519.PrivateKey
}

func newSigner(of byte, cluster string) signer {
	seed := [ed25519.SeedSize]byte{of}
	return signer{cluster, ed25519.NewKeyFromSeed(seed[:])}
}

func (s signer) public() ed25519.PublicKey { return s.private.Public().(ed25519.PublicKey) }

func (s signer) key() string {
	return checkpoint.ClusterKey(checkpoint.Checkpoint{Cluster: s.cluster, Incarnation: 1}, s.public())
}

func (s signer) sign(size uint64, root auditlog.Hash) []byte {
	c := checkpoint.Checkpoint{Cluster: s.cluster, Incarnation: 1, Size: size, Root: root}
	return checkpoint.Note(c, checkpoint.ClusterLine(c, s.public(), ed25519.Sign(s.private, c.Text())))
}

// managers are a log, and the files that they have of it.
type managers struct {
	log     auditlog.Log
	files   map[uint64][]byte
	dropped uint64
	says    string
}

func (m *managers) append(t testing.TB, n int) {
	t.Helper()
	for range n {
		i := m.log.Size()
		var err error
		if m.log, err = m.log.Append(auditlog.Entry{Index: i + 1, Clock: int64(i), Record: fmt.Append(nil, m.says, i)}); err != nil {
			t.Fatal(err)
		}
		if s, more := m.log.Oldest(2); more {
			m.files[s.Number] = s.Encode()
			m.log = m.log.Without()
		}
	}
}

func (m *managers) reader() *auditlog.Reader {
	return &auditlog.Reader{Log: m.log, Segment: func(n uint64, want auditlog.Hash) (auditlog.Segment, error) {
		b, ok := m.files[n]
		if !ok {
			return auditlog.Segment{}, auditlog.ErrMissing
		}
		return auditlog.Open(b, n, want)
	}}
}

func (m *managers) root(t testing.TB, size uint64) auditlog.Hash {
	t.Helper()
	root, err := m.reader().Root(size)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// archive writes what a checkpoint of now has, and was not dropped.
func (m *managers) archive(t testing.TB, dir string, by signer) {
	t.Helper()
	size := m.log.Size()
	note := by.sign(size, m.root(t, size))
	for n := m.dropped; n < m.log.Segments(); n++ {
		r := m.reader()
		s, err := r.FullSegment(n)
		if err != nil {
			t.Fatal(err)
		}
		proof, err := r.Prove(n*auditlog.SegmentEntries, size)
		if err != nil {
			t.Fatal(err)
		}
		above, err := auditlog.Above(proof)
		if err != nil {
			t.Fatal(err)
		}
		if err := Write(dir, &Segment{Segment: s, Note: note, Above: above}, []string{by.key()}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestArchive: whatever is appended, archived and dropped, and in whatever order, all that
// was appended is to be had and proved, from the managers or the archive; and each bit of
// the archive that is another is found.
func TestArchive(t *testing.T) {
	by := newSigner(1, cluster)
	keys := []string{by.key()}
	rapid.Check(t, func(rt *rapid.T) {
		dir := filepath.Join(t.TempDir(), fmt.Sprint(rapid.Uint64().Draw(rt, "dir")))
		m := &managers{files: map[uint64][]byte{}, says: "record "}
		archived := uint64(0)
		for range rapid.IntRange(1, 6).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"append", "archive", "drop"}).Draw(rt, "step") {
			case "append":
				m.append(t, rapid.IntRange(1, 3000).Draw(rt, "records"))
			case "archive":
				m.archive(t, dir, by)
				archived = m.log.Segments()
			case "drop":
				on := m.log.Segments() - uint64(len(m.log.Kept()))
				m.dropped = rapid.Uint64Range(m.dropped, max(m.dropped, min(on, archived))).Draw(rt, "before")
				for n := range m.dropped {
					delete(m.files, n)
				}
			}
			if archived == 0 {
				continue
			}
			a, err := Read(t.Context(), dir, keys)
			if err != nil {
				rt.Fatal(err)
			}
			if a.First != 0 || a.Next != archived || a.Cluster != cluster || a.Digest(0, archived) != auditlog.Digest(0, m.log.Roots()[:archived]) {
				rt.Fatalf("%+v", a)
			}
			m.root(t, m.log.Size()) // without what was dropped
			n := rapid.Uint64Range(0, m.log.Size()-1).Draw(rt, "record")
			if _, err := m.reader().Entry(n); err == nil != (n >= m.dropped*auditlog.SegmentEntries) {
				rt.Fatalf("record %d of the managers, who dropped %d segments: %v", n, m.dropped, err)
			}
			if n < a.Records() {
				s, err := Open(dir, n/auditlog.SegmentEntries, keys)
				if err != nil || string(s.Entries[n%auditlog.SegmentEntries].Record) != fmt.Sprint("record ", n) {
					rt.Fatalf("record %d of the archive: %v", n, err)
				}
			}
		}
		if archived == 0 {
			return
		}
		path := Path(dir, rapid.Uint64Range(0, archived-1).Draw(rt, "spoilt"))
		b, err := os.ReadFile(path)
		if err != nil {
			rt.Fatal(err)
		}
		at := rapid.IntRange(0, len(b)-1).Draw(rt, "byte")
		spoilt := append([]byte{}, b...)
		if rapid.Bool().Draw(rt, "cut") {
			spoilt = spoilt[:at]
		} else {
			spoilt[at] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
		}
		if err := os.WriteFile(path, spoilt, 0o600); err != nil {
			rt.Fatal(err)
		}
		if _, err := Read(t.Context(), dir, keys); err == nil {
			rt.Fatalf("byte %d of %d of %s is another, and it verifies", at, len(b), path)
		}
	})
}

// TestArchiveIsRefused: what is whole by itself, and is not what it should be.
func TestArchiveIsRefused(t *testing.T) {
	by := newSigner(1, cluster)
	keys := []string{by.key()}
	m := &managers{files: map[uint64][]byte{}, says: "record "}
	m.append(t, 4*auditlog.SegmentEntries+7)
	forged := &managers{files: map[uint64][]byte{}, says: "nothing "}
	forged.append(t, 4*auditlog.SegmentEntries+7)
	rename := func(dir string, from, to uint64) {
		if err := os.Rename(Path(dir, from), Path(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	for want, spoil := range map[string]func(dir string) []string{
		"nobody whose key is known": func(string) []string { return []string{newSigner(2, cluster).key()} },
		"has no segment 1":          func(dir string) []string { os.Remove(Path(dir, 1)); return keys },
		"it is segment 3":           func(dir string) []string { rename(dir, 3, 2); return keys },
		"has no segment of an":      func(dir string) []string { os.RemoveAll(dir); os.MkdirAll(dir, 0o700); return keys },
		"no such file":              func(dir string) []string { os.RemoveAll(dir); return keys },
		"is of cluster": func(dir string) []string { // as another cluster's
			away := t.TempDir()
			thief := newSigner(3, other)
			m.archive(t, away, thief)
			os.Rename(Path(away, 2), Path(dir, 2))
			return append(keys, thief.key())
		},
		"a log that was rewritten": func(dir string) []string { // by who has the key, later
			away := t.TempDir()
			forged.archive(t, away, by)
			m.append(t, auditlog.SegmentEntries)
			os.RemoveAll(dir)
			m.archive(t, dir, by)
			os.Rename(Path(away, 3), Path(dir, 3))
			return keys
		},
	} {
		dir := filepath.Join(t.TempDir(), "archive")
		m.archive(t, dir, by)
		if _, err := Read(t.Context(), dir, keys); err != nil {
			t.Fatal(err)
		}
		known := spoil(dir)
		_, err := Read(t.Context(), dir, known)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	dir := t.TempDir()
	m.archive(t, dir, by)
	s, err := Open(dir, 0, keys)
	if err != nil {
		t.Fatal(err)
	}
	s.Above[0][0] ^= 1
	if err := Write(t.TempDir(), s, keys); err == nil {
		t.Error("what is not proved is written")
	}
	r := forged.reader()
	if s.Segment, err = r.FullSegment(0); err != nil {
		t.Fatal(err)
	}
	proof, err := r.Prove(0, forged.log.Size())
	if err != nil {
		t.Fatal(err)
	}
	s.Above, _ = auditlog.Above(proof)
	s.Note = by.sign(forged.log.Size(), forged.root(t, forged.log.Size()))
	if err := Write(dir, s, keys); err == nil || !strings.Contains(err.Error(), "has other records") {
		t.Errorf("another log's in the same place: %v", err)
	}
	if _, err := Open(dir, 17, keys); !errors.As(err, new(*MissingError)) {
		t.Error(err)
	}
}

// TestHolds: a checkpoint that was kept elsewhere is of this log, or is not.
func TestHolds(t *testing.T) {
	by := newSigner(1, cluster)
	m := &managers{files: map[uint64][]byte{}, says: "record "}
	m.append(t, 3*auditlog.SegmentEntries+7)
	dir := t.TempDir()
	m.archive(t, dir, by)
	a, err := Read(t.Context(), dir, []string{by.key()})
	if err != nil {
		t.Fatal(err)
	}
	at := func(size uint64) checkpoint.Checkpoint {
		return checkpoint.Checkpoint{Cluster: cluster, Incarnation: 1, Size: size, Root: m.root(t, size)}
	}
	for _, size := range []uint64{1, 500, auditlog.SegmentEntries, 2*auditlog.SegmentEntries + 1, 3 * auditlog.SegmentEntries, m.log.Size()} {
		if err := a.Holds(at(size)); err != nil {
			t.Errorf("of %d records: %v", size, err)
		}
	}
	rewritten, away := at(500), at(500)
	rewritten.Root[0] ^= 1
	away.Cluster = other
	for want, c := range map[string]checkpoint.Checkpoint{"was rewritten": rewritten, "is of cluster": away, "take one that was made before": at(m.log.Size() - 1)} {
		if err := a.Holds(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := os.Remove(Path(dir, 0)); err != nil {
		t.Fatal(err)
	}
	if a, err = Read(t.Context(), dir, []string{by.key()}); err != nil || a.First != 1 || a.Holds(at(500)) == nil || a.Holds(at(m.log.Size())) != nil {
		t.Errorf("without its beginning: %+v, %v", a, err)
	}
}

func FuzzParse(f *testing.F) {
	by := newSigner(1, cluster)
	m := &managers{files: map[uint64][]byte{}, says: "r"}
	m.append(f, auditlog.SegmentEntries)
	dir := f.TempDir()
	m.archive(f, dir, by)
	b, err := os.ReadFile(Path(dir, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parse(b); err == nil && string(s.encode()) != string(b) {
			t.Error("it has another writing")
		}
	})
}
