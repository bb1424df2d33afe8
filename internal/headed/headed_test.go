package headed

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// The bytes that docs/formats.md promises.
func TestFileIsAsDocumented(t *testing.T) {
	got := Encode("boot", []byte("{}"))
	want, _ := hex.DecodeString("5244544e01" + "00000004626f6f74" + "000000027b7d")
	sum := sha256.Sum256(want)
	if !bytes.Equal(got, append(want, sum[:]...)) {
		t.Fatalf("% x", got)
	}
	body, err := Decode("boot", got)
	if err != nil || string(body) != "{}" {
		t.Fatalf("%q, %v", body, err)
	}
}

func TestEveryChangeIsFound(t *testing.T) {
	whole := Encode("leaf", []byte("a chain and a key"))
	for i := range whole {
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[i] ^= 1 << bit
			if _, err := Decode("leaf", b); err == nil {
				t.Fatalf("bit %d of byte %d was flipped, and it opens", bit, i)
			}
		}
		if _, err := Decode("leaf", whole[:i]); err == nil {
			t.Fatalf("cut to %d bytes, and it opens", i)
		}
	}
	if _, err := Decode("leaf", append(bytes.Clone(whole), 0)); err == nil {
		t.Error("longer by a byte, and it opens")
	}
	if _, err := Decode("boot", whole); err == nil {
		t.Error("it opens under another name")
	}
}

func TestNewerIsToldFromDamaged(t *testing.T) {
	b := Encode("leaf", nil)
	b[len(Magic)]++
	if _, err := Decode("leaf", b); !errors.Is(err, ErrDamaged) {
		t.Errorf("another format under the old digest: %v", err)
	}
	sum := sha256.Sum256(b[:len(b)-sha256.Size])
	if _, err := Decode("leaf", append(b[:len(b)-sha256.Size], sum[:]...)); !errors.Is(err, ErrNewer) {
		t.Errorf("another format under its own digest: %v", err)
	}
	if _, err := Decode("leaf", []byte(`{"chain":[]}`)); !errors.Is(err, ErrNoHeader) {
		t.Errorf("a file of the first release: %v", err)
	}
}

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := Write(path, "x", []byte("body")); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if body, err := Decode("x", raw); err != nil || string(body) != "body" {
		t.Errorf("%q, %v", body, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode("leaf", []byte("body")))
	f.Add([]byte(Magic))
	f.Fuzz(func(t *testing.T, raw []byte) {
		body, err := Decode("leaf", raw)
		if err == nil && !bytes.Equal(Encode("leaf", body), raw) {
			t.Error("a file reads in two ways")
		}
	})
}
