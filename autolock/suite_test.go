package autolock

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/fips140"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"testing"
)

// TestOwnSuite: a process that may call the module alone seals by suite 2, and
// every other as versions before can read.
func TestOwnSuite(t *testing.T) {
	want := byte(suiteCounted)
	if fips140.Enforced() {
		want = byte(suiteDrawn)
	}
	rec, err := newSealer(t, 1, 1).Seal("log", nil, nil)
	if err != nil || rec[5] != want {
		t.Fatalf("suite %d, %v", rec[5], err)
	}
}

// Opening a record of suite 2 with the standard library alone, from the words of
// docs/formats.md.
func TestDrawnRecordIsAsDocumented(t *testing.T) {
	s := newSealerBy(t, suiteDrawn, 9, 5)
	var nonces [][]byte
	for range 2 {
		rec, err := s.Seal("log", []byte("aad"), []byte("hello"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(rec[:10], []byte("RDTS\x01\x02\x00\x00\x00\x05")) {
			t.Fatalf("header %x", rec[:10])
		}
		nonces = append(nonces, rec[26:38])
		key, _ := hkdf.Key(sha256.New, bytes.Repeat([]byte{9}, KeyLen), rec[10:26], "redoubt seal v2\x00log", 32)
		block, _ := aes.NewCipher(key)
		gcm, _ := cipher.NewGCMWithRandomNonce(block)
		plain, err := gcm.Open(nil, nil, rec[26:], append(bytes.Clone(rec[:26]), "aad"...))
		if err != nil || string(plain) != "hello" {
			t.Fatal(err)
		}
	}
	if bytes.Equal(nonces[0], nonces[1]) {
		t.Error("two records have one nonce")
	}
}

// Records as they lie on disks: of suite 1 by a version before, or by a node that was
// not in FIPS mode yet.
const (
	counted = "52445453010100000005b227499d550b29a05f104c23d429064800000000000000000000000104b9b4f1a1a603c0c72da309489d5c086cd4d1cbfd"
	drawn   = "5244545301020000000582eee3c03631e32d9f5b2aa4b49a09eb13d99946ed0249b7bb4cf6759b2837709fd639dbc2db8c90e9f227d8a3ed9b4ed3"
)

func golden(t testing.TB) (out [][]byte) {
	for _, text := range []string{counted, drawn} {
		rec, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, rec)
	}
	return out
}

// TestRecordsOpenEverywhere, also where none of their suite can be made.
func TestRecordsOpenEverywhere(t *testing.T) {
	for _, by := range suites() {
		for i, rec := range golden(t) {
			if plain, err := newSealerBy(t, by, 9, 5).Open("log", []byte("aad"), rec); err != nil || string(plain) != "hello" {
				t.Errorf("suite %d by a Sealer of suite %d: %q %v", i+1, by, plain, err)
			}
		}
	}
}

// FuzzOpen: nothing opens but what was sealed.
func FuzzOpen(f *testing.F) {
	s := newSealer(f, 9, 5)
	sealed := golden(f) // the same in every process that fuzzes
	for _, rec := range sealed {
		f.Add(rec)
		f.Add(rec[:headerLen])
	}
	f.Add([]byte("RDTS"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := s.Open("log", []byte("aad"), b); err == nil &&
			(!slices.ContainsFunc(sealed, func(rec []byte) bool { return bytes.Equal(b, rec) }) || string(got) != "hello") {
			t.Fatal("a record that was never sealed was opened")
		}
	})
}

// TestSuitesAreApart: a record that says another suite, or one that does not exist,
// does not open.
func TestSuitesAreApart(t *testing.T) {
	s := newSealer(t, 1, 1)
	for _, by := range suites() {
		rec, err := newSealerBy(t, by, 1, 1).Seal("log", nil, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		for other := range byte(5) {
			if other == byte(by) {
				continue
			}
			said := bytes.Clone(rec)
			said[offSuite] = other
			if _, err := s.Open("log", nil, said); !errors.Is(err, ErrSealed) {
				t.Errorf("a record of suite %d that says %d: %v", by, other, err)
			}
		}
	}
	if maxDrawnRecords > 1<<32/256 {
		t.Error("drawn nonces come near the bound of SP 800-38D")
	}
}
