package keyscan

import (
	"bytes"
	"context"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"testing/iotest"
)

func header(epoch uint32) []byte { return headerOf(1, epoch) }

func headerOf(suite byte, epoch uint32) []byte {
	return binary.BigEndian.AppendUint32(append([]byte(head), suite), epoch)
}

// TestSuites: records are told apart by suite, and what is of none is no record.
func TestSuites(t *testing.T) {
	data := slices.Concat(headerOf(1, 7), headerOf(2, 7), headerOf(2, 8), headerOf(0, 7), headerOf(3, 7), []byte(head), headerOf(1, 9))
	f, err := scan(t.Context(), bytes.NewReader(data))
	if err != nil || !maps.Equal(f.Records, map[uint32]uint64{7: 2, 8: 1, 9: 1}) || !maps.Equal(f.Suites, map[uint8]uint64{1: 2, 2: 2}) {
		t.Fatalf("%v %v", f, err)
	}
}

// TestScanFindsEveryHeader wherever it stands, at the seams of what is read too.
func TestScanFindsEveryHeader(t *testing.T) {
	for _, at := range []int{0, 1, 4096, blockBytes - headLen, blockBytes - headLen + 1, blockBytes - 1, blockBytes, blockBytes + 1,
		2*blockBytes - 5, 2*blockBytes + 3} {
		data := make([]byte, 2*blockBytes+100)
		copy(data[at:], header(7))
		f, err := scan(t.Context(), bytes.NewReader(data))
		if err != nil || !maps.Equal(f.Records, map[uint32]uint64{7: 1}) || f.Bytes != int64(len(data)) {
			t.Errorf("at %d: %v %v", at, f, err)
		}
	}
}

// TestScanAgainstCounting compares with what was put in, for any pieces the file is
// read in.
func TestScanAgainstCounting(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var data []byte
	want := map[uint32]uint64{}
	for len(data) < 3*blockBytes {
		data = append(data, bytes.Repeat([]byte{byte(rnd.Uint32())}, int(rnd.Uint32N(9000)))...)
		e := rnd.Uint32N(5)
		data = append(data, header(e)...)
		want[e]++
	}
	data = append(data, head[:5]...) // cut off
	f, err := scan(t.Context(), iotest.HalfReader(bytes.NewReader(data)))
	if err != nil || !maps.Equal(f.Records, want) {
		t.Fatalf("%v %v, want %v", f.Records, err, want)
	}
}

func TestDir(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a", "b.tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{"x": header(1), "a/y": append(header(2), header(1)...), "a/b.tmp/z": []byte("nothing")} {
		if err := os.WriteFile(filepath.Join(dir, path), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Dir(t.Context(), dir)
	if err != nil || len(r.Files) != 3 || !maps.Equal(r.Epochs(), map[uint32]uint64{1: 2, 2: 1}) {
		t.Fatalf("%v %v", r, err)
	}
	if u := r.Under(2); len(u) != 1 || u[0] != filepath.Join("a", "y") {
		t.Errorf("%v", u)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dir(ctx, dir); err == nil {
		t.Error("a cancelled scan ended well")
	}
	if _, err := Dir(t.Context(), filepath.Join(dir, "none")); err == nil {
		t.Error("a directory that is not there was scanned")
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Dir(t.Context(), dir); err == nil {
		t.Error("a pipe was passed over")
	}
}

func TestTooManyEpochs(t *testing.T) {
	var data []byte
	for i := range uint32(maxEpochs + 1) {
		data = append(data, header(i)...)
	}
	if _, err := scan(t.Context(), bytes.NewReader(data)); err == nil {
		t.Error("taken for files of a store")
	}
}

// FuzzScan: what is counted does not depend on how the file is cut.
func FuzzScan(f *testing.F) {
	f.Add(append(header(1), header(2)...))
	f.Add(headerOf(2, 3))
	f.Add([]byte("RDTSRDTS\x01\x01\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err1 := scan(t.Context(), bytes.NewReader(data))
		b, err2 := scan(t.Context(), iotest.OneByteReader(bytes.NewReader(data)))
		if (err1 == nil) != (err2 == nil) || err1 == nil && !maps.Equal(a.Records, b.Records) {
			t.Fatalf("%v %v / %v %v", a, err1, b, err2)
		}
		var n uint64
		for i := 0; i+headLen <= len(data); i++ {
			if string(data[i:i+len(head)]) == head && data[i+len(head)] >= 1 && data[i+len(head)] <= suites {
				n++
			}
		}
		var got uint64
		for _, c := range a.Records {
			got += c
		}
		if err1 == nil && got != n {
			t.Fatalf("%d headers, counted %d", n, got)
		}
	})
}
