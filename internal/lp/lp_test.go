package lp_test

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/internal/lp"
)

func TestAppend(t *testing.T) {
	got := lp.Append([]byte("label\x00"), []byte("ab"))
	if want := []byte("label\x00\x00\x00\x00\x02ab"); !bytes.Equal(got, want) {
		t.Fatalf("%q, want %q", got, want)
	}
	if got := lp.Append(nil, nil); !bytes.Equal(got, make([]byte, 4)) {
		t.Fatalf("an absent part is %q", got)
	}
}

// What separates two parts is never lost: other parts give other bytes.
func TestOnlyOneReading(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 6), 2, 2)
		a, b := parts.Draw(t, "a"), parts.Draw(t, "b")
		same := bytes.Equal(a[0], b[0]) && bytes.Equal(a[1], b[1])
		if got := bytes.Equal(lp.Append(lp.Append(nil, a[0]), a[1]), lp.Append(lp.Append(nil, b[0]), b[1])); got != same {
			t.Fatalf("%q and %q: equal bytes %t", a, b, got)
		}
	})
}

// Take is the reverse of Append, and takes nothing else.
func TestTake(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part, rest := rapid.SliceOf(rapid.Byte()).Draw(t, "part"), rapid.SliceOf(rapid.Byte()).Draw(t, "rest")
		b := append(lp.Append(nil, part), rest...)
		p, r, ok := lp.Take(b)
		if !ok || !bytes.Equal(p, part) || !bytes.Equal(r, rest) || cap(p) != len(p) {
			t.Fatalf("%x gives %x and %x, %t", b, p, r, ok)
		}
		cut := rapid.IntRange(0, 3+len(part)).Draw(t, "cut")
		if _, _, ok := lp.Take(b[:cut]); ok {
			t.Fatalf("%x is taken for a part", b[:cut])
		}
	})
}
