package autolock

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
)

func split(t testing.TB, clusterID string, since uint64, n, threshold int) (*keydpb.Slot, []Share) {
	t.Helper()
	slot, shares, err := Split(clusterID, "officers", since, n, threshold)
	if err != nil {
		t.Fatal(err)
	}
	return slot, shares
}

// TestEverySubsetOpens: any of threshold shares make the slot's seed, and the same one.
func TestEverySubsetOpens(t *testing.T) {
	cluster := ident.New()
	slot, shares := split(t, cluster, 1, 5, 3)
	var seed []byte
	for i := range 5 {
		for j := range i {
			for k := range j {
				got, err := Join(cluster, slot, []Share{shares[i], shares[k], shares[j]})
				if err != nil || seed != nil && !slices.Equal(got, seed) {
					t.Fatalf("%d, %d and %d: %v", i, j, k, err)
				}
				seed = got
			}
		}
	}
	if got, err := Join(cluster, slot, shares); err != nil || !slices.Equal(got, seed) {
		t.Errorf("more than are needed: %v", err)
	}
}

// TestTooFewShares: one less than the threshold opens nothing, however often one of
// them is given.
func TestTooFewShares(t *testing.T) {
	cluster := ident.New()
	for threshold := MinThreshold; threshold <= 5; threshold++ {
		slot, shares := split(t, cluster, 1, 5, threshold)
		few := shares[:threshold-1]
		for name, given := range map[string][]Share{
			"none": nil, "too few": few, "one twice": append(slices.Clone(few), few[0]), "each twice": slices.Concat(few, few),
		} {
			if seed, err := Join(cluster, slot, given); err == nil || seed != nil || !strings.Contains(err.Error(), "needed") {
				t.Errorf("%s of %d: %v", name, threshold, err)
			}
		}
	}
}

// TestSharesOfOthers: what is not of this slot is refused by itself, also beside
// enough that are, and never makes another key.
func TestSharesOfOthers(t *testing.T) {
	cluster := ident.New()
	slot, shares := split(t, cluster, 4, 5, 3)
	_, foreign := split(t, ident.New(), 4, 5, 3)
	_, stale := split(t, cluster, 3, 5, 3) // of a slot that was there before, by the same name
	_, beside := split(t, cluster, 4, 5, 3)
	for name, other := range map[string]Share{
		"another cluster's": foreign[2], "of an epoch before": stale[2], "another slot's": beside[2],
		"made up of two":     sealShareOf(shares[2], beside[2]),
		"with another place": change(shares[2], offNumber, 4),
		"with another need":  change(shares[2], offThreshold, 2),
		"another point":      change(shares[2], offPoint, shares[2].raw[offPoint]^1),
	} {
		if seed, err := Join(cluster, slot, []Share{shares[0], shares[1], other}); err == nil || seed != nil {
			t.Errorf("a share %s was taken", name)
		}
		if err := other.Check(cluster, slot); err == nil {
			t.Errorf("a share %s passes by itself", name)
		}
	}
	if _, err := Join(ident.New(), slot, shares[:3]); err == nil {
		t.Error("the shares open a slot of another cluster")
	}
	// A record of the slot that was tampered with makes no other key either.
	damaged := &keydpb.Slot{Id: slot.Id, Kind: slot.Kind, Recipient: foreign[0].raw[:], Threshold: 3, Shares: slot.Shares, Since: 4}
	if _, err := Join(cluster, damaged, shares[:3]); err == nil {
		t.Error("the shares open a slot with another key")
	}
}

// change is a share with one byte another, and a checksum that fits.
func change(s Share, at int, to byte) Share {
	s.raw[at] = to
	copy(s.raw[offCheck:], s.checksum())
	return s
}

// sealShareOf is what one share says it is, with the point of another.
func sealShareOf(s, point Share) Share {
	copy(s.raw[offPoint:offCheck], point.Point())
	copy(s.raw[offCheck:], s.checksum())
	return s
}

// TestShareTyped: however it is cut short or mistyped, a share is told to be, and what
// was typed is not repeated.
func TestShareTyped(t *testing.T) {
	_, shares := split(t, ident.New(), 1, 5, 3)
	text := shares[1].String()
	if got, err := ParseShare(strings.ToLower(SharePrefix + strings.ReplaceAll(text[len(SharePrefix):], "-", " "))); err != nil || got != shares[1] {
		t.Errorf("in another way: %v", err)
	}
	refused := func(typed string, want error) {
		t.Helper()
		got, err := ParseShare(typed)
		var length *ShareLengthError
		if err == nil || got != (Share{}) || want != nil && !errors.Is(err, want) || want == nil && !errors.As(err, &length) {
			t.Errorf("%q: %v", typed, err)
		}
		if body := strings.TrimPrefix(typed, SharePrefix); err != nil && len(body) > 6 && strings.Contains(err.Error(), body[:6]) {
			t.Errorf("the error repeats what was typed: %v", err)
		}
	}
	for n := len(SharePrefix); n < len(text); n++ {
		if text[n-1] != '-' || n == len(SharePrefix) {
			refused(text[:n], nil)
		}
	}
	refused(text+"A", nil)
	refused(text+text[len(SharePrefix):], nil)
	refused("", ErrSharePrefix)
	refused("RDTKEY-"+text[len(SharePrefix):], ErrSharePrefix)
	for i := len(SharePrefix); i < len(text); i++ {
		if text[i] == '-' {
			continue
		}
		typo := []byte(text)
		if typo[i] = 'A'; text[i] == 'A' {
			typo[i] = 'B'
		}
		refused(string(typo), ErrShareChecksum)
		typo[i] = '1'
		refused(string(typo), ErrShareChars)
	}
	for at, to := range map[int]byte{0: 2, offNumber: 0, offThreshold: 1, offCheck - 1: 0} {
		bad := change(shares[1], at, to)
		refused(bad.String(), map[bool]error{true: ErrShareFormat, false: ErrShareShape}[at == 0])
	}
	if shown := fmt.Sprintf("%#v %v", shares[1], shares[1].LogValue()); strings.Contains(shown, text[9:15]) {
		t.Errorf("a log has the share: %s", shown)
	}
}

func FuzzParseShare(f *testing.F) {
	_, shares := split(f, ident.New(), 1, 3, 2)
	f.Add(shares[0].String())
	f.Add(SharePrefix)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseShare(text)
		if err != nil {
			if s != (Share{}) {
				t.Error("an error, and a share")
			}
			return
		}
		if again, err := ParseShare(s.String()); err != nil || again != s {
			t.Errorf("it does not read what it wrote: %v", err)
		}
		if s.Number() < 1 || s.Threshold() < MinThreshold || s.Since() == 0 {
			t.Errorf("a share that contradicts itself: %d of %d", s.Number(), s.Threshold())
		}
	})
}
