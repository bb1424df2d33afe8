package raftstore

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testseal"
)

func testBinder(cluster, node string) *binder {
	return newBinder(&Config{ClusterID: cluster, NodeID: node, Incarnation: 1, Sealer: sharedSealer})
}

var sharedSealer = testseal.New()

func pass(err error) error { return err }

func newSealedLog() (*sealedLog, *raft.InmemStore) {
	inner := raft.NewInmemStore()
	return &sealedLog{inner: inner, bind: testBinder("c", "n"), halt: pass}, inner
}

func TestSealedLogRoundTrip(t *testing.T) {
	s, inner := newSealedLog()
	rapid.Check(t, func(rt *rapid.T) {
		in := &raft.Log{
			Index: rapid.Uint64Range(1, 1<<62).Draw(rt, "index"),
			Term:  rapid.Uint64().Draw(rt, "term"),
			Type:  raft.LogType(rapid.Byte().Draw(rt, "type")),
			Data:  rapid.SliceOf(rapid.Byte()).Draw(rt, "data"),
		}
		if rapid.Bool().Draw(rt, "stamped") {
			in.AppendedAt = time.Unix(0, rapid.Int64Range(1, 1<<62).Draw(rt, "at"))
		}
		if ext := rapid.SliceOf(rapid.Byte()).Draw(rt, "ext"); len(ext) > 0 {
			in.Extensions = ext
		}
		if err := s.StoreLog(in); err != nil {
			rt.Fatal(err)
		}
		var out, raw raft.Log
		if err := s.GetLog(in.Index, &out); err != nil {
			rt.Fatal(err)
		}
		if out.Index != in.Index || out.Term != in.Term || out.Type != in.Type || !bytes.Equal(out.Data, in.Data) ||
			!bytes.Equal(out.Extensions, in.Extensions) || !out.AppendedAt.Equal(in.AppendedAt) {
			rt.Fatalf("got %+v, want %+v", out, *in)
		}
		if err := inner.GetLog(in.Index, &raw); err != nil {
			rt.Fatal(err)
		}
		if len(in.Data) >= 8 && bytes.Contains(raw.Data, in.Data) {
			rt.Fatal("the entry is readable in the inner store")
		}
		if !raw.AppendedAt.IsZero() || raw.Extensions != nil {
			rt.Fatal("the inner store has more than the sealed entry")
		}
	})
}

func TestSealedLogRefusesWhatIsNotItsOwn(t *testing.T) {
	canary := []byte("canary-in-the-log")
	for name, tamper := range map[string]func(l *raft.Log){
		"bit flipped":        func(l *raft.Log) { l.Data[len(l.Data)/2] ^= 1 },
		"cut off":            func(l *raft.Log) { l.Data = l.Data[:len(l.Data)-1] },
		"empty":              func(l *raft.Log) { l.Data = nil },
		"other term":         func(l *raft.Log) { l.Term++ },
		"other type":         func(l *raft.Log) { l.Type = raft.LogConfiguration },
		"extension added":    func(l *raft.Log) { l.Extensions = []byte{1} },
		"moved to index 7":   func(l *raft.Log) { l.Index = 7 },
		"says another index": func(l *raft.Log) {},
	} {
		t.Run(name, func(t *testing.T) {
			s, inner := newSealedLog()
			if err := s.StoreLog(&raft.Log{Index: 6, Term: 2, Type: raft.LogCommand, Data: canary}); err != nil {
				t.Fatal(err)
			}
			var raw raft.Log
			if err := inner.GetLog(6, &raw); err != nil {
				t.Fatal(err)
			}
			tamper(&raw)
			if err := inner.StoreLog(&raw); err != nil {
				t.Fatal(err)
			}
			read := inner
			if name == "says another index" {
				read, raw.Index = raft.NewInmemStore(), 9
				s.inner = renumbered{read, 6}
				if err := read.StoreLog(&raw); err != nil {
					t.Fatal(err)
				}
			}
			index := uint64(6)
			if name == "moved to index 7" {
				index = 7
			}
			var out raft.Log
			err := s.GetLog(index, &out)
			if err == nil || !strings.Contains(err.Error(), "log entry") || strings.Contains(err.Error(), string(canary)) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

// renumbered answers a request for one index with whatever the store has.
type renumbered struct {
	*raft.InmemStore
	index uint64
}

func (r renumbered) GetLog(index uint64, l *raft.Log) error {
	return r.InmemStore.GetLog(9, l)
}

func TestSealedRecordsAreBoundToClusterAndNode(t *testing.T) {
	s, inner := newSealedLog()
	if err := s.StoreLog(&raft.Log{Index: 1, Term: 1, Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	older := newBinder(&Config{ClusterID: "c", NodeID: "n", Incarnation: 0, Sealer: sharedSealer})
	for name, b := range map[string]*binder{
		"cluster": testBinder("d", "n"), "node": testBinder("c", "m"), "incarnation": older,
		"shifted boundary": testBinder("cn", ""),
	} {
		other := &sealedLog{inner: inner, bind: b, halt: pass}
		if err := other.GetLog(1, &raft.Log{}); err == nil {
			t.Errorf("another %s opens the entry", name)
		}
	}
}

func TestSealedStable(t *testing.T) {
	inner := raft.NewInmemStore()
	s := &sealedStable{inner: inner, bind: testBinder("c", "n"), halt: pass}
	if _, err := s.GetUint64([]byte("CurrentTerm")); err == nil || err.Error() != "not found" {
		t.Fatalf("absent: %v", err)
	}
	if err := s.SetUint64([]byte("CurrentTerm"), 42); err != nil {
		t.Fatal(err)
	}
	if err := s.Set([]byte("LastVoteCand"), []byte("candidate")); err != nil {
		t.Fatal(err)
	}
	if n, err := s.GetUint64([]byte("CurrentTerm")); err != nil || n != 42 {
		t.Fatalf("term %d, %v", n, err)
	}
	if v, err := s.Get([]byte("LastVoteCand")); err != nil || string(v) != "candidate" {
		t.Fatalf("vote %q, %v", v, err)
	}
	if v, err := inner.Get([]byte("LastVoteCand")); err == nil && len(v) > 0 {
		t.Fatal("the name is readable")
	}
	term, vote := sharedSealer.Name([]byte("CurrentTerm")), sharedSealer.Name([]byte("LastVoteCand"))
	v, err := inner.Get(term)
	if err != nil {
		t.Fatal(err)
	}
	if err := inner.Set(vote, v); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get([]byte("LastVoteCand")); err == nil {
		t.Fatal("an exchanged value opens")
	}
	if _, err := s.GetUint64([]byte("LastVoteCand")); err == nil {
		t.Fatal("an exchanged value opens as a number")
	}
}

// sealedChunks returns the chunks of a stream of n bytes.
func sealedChunks(t testing.TB, id string, plain []byte) [][]byte {
	var out bytes.Buffer
	w := newChunkWriter(&out, testBinder("c", "n"), id)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var chunks [][]byte
	for rest := out.Bytes(); len(rest) > 0; {
		part, r, err := takeLP(rest)
		if err != nil {
			t.Fatal(err)
		}
		chunks, rest = append(chunks, part), r
	}
	return chunks
}

func readChunks(id string, size int, chunks ...[]byte) ([]byte, error) {
	var in []byte
	for _, c := range chunks {
		in = lp.Append(in, c)
	}
	return io.ReadAll(newChunkReader(io.NopCloser(bytes.NewReader(in)), testBinder("c", "n"), id, int64(size)))
}

func TestChunkStream(t *testing.T) {
	for _, size := range []int{0, 1, snapshotChunkBytes - 1, snapshotChunkBytes, snapshotChunkBytes + 1, 3*snapshotChunkBytes + 5} {
		plain := bytes.Repeat([]byte{7}, size)
		got, err := readChunks("id", size, sealedChunks(t, "id", plain)...)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: got %d, %v", size, len(got), err)
		}
	}
}

func TestChunkStreamRefusals(t *testing.T) {
	size := 2*snapshotChunkBytes + 9
	plain := bytes.Repeat([]byte{7}, size)
	c := sealedChunks(t, "id", plain)
	other := sealedChunks(t, "other", plain)
	flipped := bytes.Clone(c[1])
	flipped[20] ^= 1
	for name, x := range map[string]struct {
		chunks [][]byte
		size   int
	}{
		"last missing":      {c[:2], size},
		"first missing":     {c[1:], size},
		"swapped":           {[][]byte{c[1], c[0], c[2]}, size},
		"doubled":           {[][]byte{c[0], c[0], c[1], c[2]}, size},
		"of another":        {[][]byte{c[0], other[1], c[2]}, size},
		"flipped":           {[][]byte{c[0], flipped, c[2]}, size},
		"shortened":         {[][]byte{c[0], c[1][:100], c[2]}, size},
		"more after last":   {[][]byte{c[0], c[1], c[2], c[2]}, size},
		"nothing":           {nil, size},
		"size too small":    {c, size - 1},
		"size too large":    {c, size + 1},
		"chunk over bounds": {[][]byte{make([]byte, snapshotChunkBytes+maxSealedOverhead+1)}, size},
	} {
		if _, err := readChunks("id", x.size, x.chunks...); err == nil {
			t.Errorf("%s: it opens", name)
		}
	}
}

func TestSnapshotStore(t *testing.T) {
	dir := t.TempDir()
	h := newHalter(slog.New(slog.DiscardHandler))
	s, err := openSnapshots(dir, testBinder("c", "n"), h)
	if err != nil {
		t.Fatal(err)
	}
	write := func(index uint64, content string) string {
		sink, err := s.Create(1, index, 3, raft.Configuration{Servers: []raft.Server{{ID: "n"}}}, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(sink, content); err != nil {
			t.Fatal(err)
		}
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
		return sink.ID()
	}
	write(9, "nine")
	write(100, "hundred")
	newest := write(1000, "thousand")
	cancelled, err := s.Create(1, 2000, 3, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := cancelled.Cancel(); err != nil {
		t.Fatal(err)
	}
	list, err := s.List()
	if err != nil || len(list) != snapshotsKept || list[0].ID != newest || list[1].Index != 100 {
		t.Fatalf("list %v, %v", list, err)
	}
	m, r, err := s.Open(newest)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil || string(got) != "thousand" || m.Size != int64(len(got)) {
		t.Fatalf("%q of %d, %v", got, m.Size, err)
	}
	if h.reason() != nil {
		t.Fatal(h.reason())
	}
}

// TestSnapshotJustWrittenIsKept: a leader may send a snapshot of one index again
// and again, and raft opens each when it is there.
func TestSnapshotJustWrittenIsKept(t *testing.T) {
	dir := t.TempDir()
	s, err := openSnapshots(dir, testBinder("c", "n"), newHalter(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		k, err := s.Create(1, 5, 1, raft.Configuration{}, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Write([]byte("state")); err != nil {
			t.Fatal(err)
		}
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
		_, r, err := s.Open(k.ID())
		if err != nil {
			t.Fatalf("the snapshot that was just written: %v", err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if ids, err := s.ids(); err != nil || len(ids) > snapshotsKept+snapshotWriters {
			t.Fatalf("%d snapshots are kept (%v)", len(ids), err)
		}
	}
}
