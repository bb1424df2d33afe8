package autolock

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/fips140"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newSealer(t testing.TB, fill byte, epoch uint32) *Sealer {
	return newSealerBy(t, ownSuite(), fill, epoch)
}

func newSealerBy(t testing.TB, by suite, fill byte, epoch uint32) *Sealer {
	t.Helper()
	s, err := makeSealer(bytes.Repeat([]byte{fill}, KeyLen), epoch, by)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// suites are those by which this process may seal.
func suites() []suite {
	if fips140.Enforced() {
		return []suite{suiteDrawn}
	}
	return []suite{suiteCounted, suiteDrawn}
}

// Opening with the standard library alone, from the words of docs/formats.md.
func TestSealedRecordIsAsDocumented(t *testing.T) {
	dek := bytes.Repeat([]byte{9}, KeyLen)
	names, _ := hkdf.Key(sha256.New, dek, nil, "redoubt names v1\x00", 32)
	h := hmac.New(sha256.New, names)
	h.Write([]byte("CurrentTerm"))
	if !bytes.Equal(newSealer(t, 9, 5).Name([]byte("CurrentTerm")), h.Sum(nil)) {
		t.Error("Name is not as documented")
	}
	if fips140.Enforced() {
		return // of suite 1 there is a record in suite_test.go
	}
	s := newSealerBy(t, suiteCounted, 9, 5)
	for want := uint64(1); want <= 2; want++ {
		rec, err := s.Seal("log", []byte("aad"), []byte("hello"))
		if err != nil {
			t.Fatal(err)
		}
		if string(rec[:4]) != "RDTS" || rec[4] != 1 || rec[5] != 1 || binary.BigEndian.Uint32(rec[6:10]) != 5 {
			t.Fatalf("header %x", rec[:10])
		}
		salt, nonce, header := rec[10:26], rec[26:38], rec[:38]
		if binary.BigEndian.Uint64(nonce[4:]) != want || binary.BigEndian.Uint32(nonce) != 0 {
			t.Errorf("nonce %x is no counter", nonce)
		}
		key, _ := hkdf.Key(sha256.New, dek, salt, "redoubt seal v1\x00log", 32)
		block, _ := aes.NewCipher(key)
		gcm, _ := cipher.NewGCM(block)
		plain, err := gcm.Open(nil, nonce, rec[38:], append(bytes.Clone(header), "aad"...))
		if err != nil || string(plain) != "hello" {
			t.Fatal(err)
		}
	}
}

func TestSealOpenProperty(t *testing.T) {
	b := newSealer(t, 1, 1) // another start
	by := map[suite]*Sealer{}
	for _, s := range suites() {
		by[s] = newSealerBy(t, s, 1, 1)
	}
	rapid.Check(t, func(t *rapid.T) {
		a := by[rapid.SampledFrom(suites()).Draw(t, "suite")]
		label := rapid.SampledFrom([]string{"log", "stable", "snapshot", "file"}).Draw(t, "label")
		aad := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "aad")
		plain := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "plain")
		rec, err := a.Seal(label, aad, plain)
		if err != nil || len(rec) != len(plain)+Overhead {
			t.Fatal(len(rec), err)
		}
		got, err := b.Open(label, aad, rec)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatal(err)
		}
		i := rapid.IntRange(0, len(rec)-1).Draw(t, "flip")
		rec[i] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := b.Open(label, aad, rec); err == nil {
			t.Fatalf("a flipped bit in byte %d was accepted", i)
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	s := newSealer(t, 1, 1)
	rec, err := s.Seal("log", []byte("index 1"), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	var epoch *EpochError
	for name, tc := range map[string]struct {
		s     *Sealer
		label string
		aad   string
		rec   []byte
	}{
		"another label": {s, "stable", "index 1", rec},
		"another place": {s, "log", "index 2", rec},
		"another key":   {newSealer(t, 2, 1), "log", "index 1", rec},
		"truncated":     {s, "log", "index 1", rec[:len(rec)-1]},
		"header only":   {s, "log", "index 1", rec[:headerLen]},
		"empty":         {s, "log", "index 1", nil},
	} {
		if _, err := tc.s.Open(tc.label, []byte(tc.aad), tc.rec); !errors.Is(err, ErrSealed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := newSealer(t, 1, 2).Open("log", []byte("index 1"), rec); !errors.As(err, &epoch) || epoch.Got != 1 {
		t.Errorf("another epoch: %v", err)
	}
	for _, label := range []string{"", string(make([]byte, MaxLabel+1))} {
		if _, err := s.Seal(label, nil, nil); err == nil {
			t.Errorf("label %q was accepted", label)
		}
	}
	if _, err := NewSealer(make([]byte, 31), 1); err == nil {
		t.Error("a short key was accepted")
	}
}

func TestNoncesNeverRepeat(t *testing.T) {
	for _, by := range suites() {
		t.Run(fmt.Sprint(by), func(t *testing.T) { noncesNeverRepeat(t, by) })
	}
}

func noncesNeverRepeat(t *testing.T, by suite) {
	s := newSealerBy(t, by, 1, 1)
	s.limit = 100 // so that salts are renewed in the middle of it
	const workers, each = 8, 500
	var mu sync.Mutex
	seen, salts := map[string]bool{}, map[string]uint64{}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				rec, err := s.Seal("log", nil, nil)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[string(rec[offSalt:headerLen])] {
					t.Error("salt and nonce repeated")
				}
				seen[string(rec[offSalt:headerLen])] = true
				salts[string(rec[offSalt:offNonce])]++
				if n := salts[string(rec[offSalt:offNonce])]; n > s.limit {
					t.Errorf("%d records under one salt", n)
				}
				if n := binary.BigEndian.Uint64(rec[headerLen-8:]); by == suiteCounted && n > s.limit {
					t.Errorf("nonce %d is over the limit", n)
				}
				mu.Unlock()
				if _, err := s.Open("log", nil, rec); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if len(seen) != workers*each || len(salts) < workers*each/100 {
		t.Errorf("%d records under %d salts", len(seen), len(salts))
	}
	if len(s.open) > maxOpenKeys || len(s.order) != len(s.open) {
		t.Errorf("%d opening keys are kept", len(s.open))
	}
}

func TestClosedSealerDoesNothing(t *testing.T) {
	s := newSealer(t, 1, 1)
	rec, err := s.Seal("log", nil, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	key := s.key
	s.Close()
	if !bytes.Equal(key, make([]byte, KeyLen)) {
		t.Error("the key was not wiped")
	}
	if _, err := s.Seal("log", nil, nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := s.Open("log", nil, rec); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if s.Name([]byte("x")) != nil {
		t.Error("Name still answers")
	}
	s.Close()
}

func BenchmarkSeal1KiB(b *testing.B) {
	for _, by := range suites() {
		b.Run(fmt.Sprintf("suite=%d", by), func(b *testing.B) {
			s := newSealerBy(b, by, 1, 1)
			plain, aad := make([]byte, 1024), make([]byte, 96)
			b.ReportAllocs()
			for b.Loop() {
				s.Seal("log", aad, plain)
			}
		})
	}
}
