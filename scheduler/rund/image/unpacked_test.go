package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
)

// layer is a tar of one file of size zeros.
func layer(t testing.TB, size int64) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "f", Mode: 0o644, Size: size}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(w, zeros{}, size); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func packed(t testing.TB, how compression.Compression, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&b)
	if how != compression.Gzip {
		var err error
		if w, err = compression.CompressStream(&b, how); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sparse is a layer of 2 KiB whose one file is 8 TiB long.
func sparse(t testing.TB) []byte {
	t.Helper()
	var pax string
	for _, r := range []string{"major=1", "minor=0", "name=big", "realsize=8796093022208"} {
		r = " GNU.sparse." + r + "\n"
		pax += strconv.Itoa(len(r)+2) + r // two digits, each
	}
	var b bytes.Buffer
	block := func(name string, kind byte, body string) {
		h := make([]byte, 512)
		copy(h, name)
		copy(h[100:], "0000644\x000000000\x000000000\x00")
		copy(h[124:], octal(len(body)))
		copy(h[136:], octal(0))
		h[156] = kind
		copy(h[257:], "ustar\x0000")
		copy(h[148:], "        ")
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		copy(h[148:], octal(sum)[5:]+"\x00")
		b.Write(h)
		b.WriteString(body)
		b.Write(make([]byte, (512-len(body)%512)%512))
	}
	block("pax", 'x', pax)
	block("big", '0', "1\n8796093022208\n0\n"+strings.Repeat("\x00", 512-18))
	b.Write(make([]byte, 1024))
	return b.Bytes()
}

func octal(n int) string {
	s := []byte("00000000000")
	for i := len(s) - 1; i >= 0; i, n = i-1, n/8 {
		s[i] = byte('0' + n%8)
	}
	return string(s)
}

func TestUnpackedSize(t *testing.T) {
	const limit = 4 << 20
	good, bomb := layer(t, 1<<20), layer(t, 32<<20)
	for name, c := range map[string]struct {
		layer []byte
		want  int64 // -1: too large
	}{
		"plain":         {good, 1<<20 + entryBytes},
		"gzip":          {packed(t, compression.Gzip, good), 1<<20 + entryBytes},
		"zstd":          {packed(t, compression.Zstd, good), 1<<20 + entryBytes},
		"gzip bomb":     {packed(t, compression.Gzip, bomb), -1},
		"zstd bomb":     {packed(t, compression.Zstd, bomb), -1},
		"sparse":        {packed(t, compression.Gzip, sparse(t)), -1},
		"bomb after it": {packed(t, compression.Gzip, append(layer(t, 1), make([]byte, 32<<20)...)), -1},
		"second member": {append(packed(t, compression.Gzip, good), packed(t, compression.Gzip, make([]byte, 32<<20))...), -1},
	} {
		got, err := unpackedSize(bytes.NewReader(c.layer), limit)
		if c.want < 0 && !errors.Is(err, errTooLarge) || c.want >= 0 && (err != nil || got != c.want) {
			t.Errorf("%s: %d, %v, want %d", name, got, err, c.want)
		}
	}
	for name, l := range map[string][]byte{
		"noise": bytes.Repeat([]byte("noise"), 1000), "torn": packed(t, compression.Gzip, good)[:500],
	} {
		if _, err := unpackedSize(bytes.NewReader(l), limit); err == nil || errors.Is(err, errTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzUnpackedSize(f *testing.F) {
	f.Add(layer(f, 10))
	f.Add(packed(f, compression.Gzip, layer(f, 10)))
	f.Add(packed(f, compression.Zstd, layer(f, 10)))
	f.Add(sparse(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 20
		if got, err := unpackedSize(bytes.NewReader(b), limit); err == nil && (got < 0 || got > limit) {
			t.Fatalf("%d bytes pass a limit of %d", got, limit)
		}
	})
}
