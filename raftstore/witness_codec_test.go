package raftstore

import (
	"bytes"
	"maps"
	"testing"
)

func FuzzWitness(f *testing.F) {
	f.Add(encodeWitness(map[string]Reach{"a": {1, 2}, "b": {3, 4}}))
	f.Add([]byte{0, 0, 0, 1, 'a'})
	f.Fuzz(func(t *testing.T, data []byte) {
		known, err := decodeWitness(data)
		if err == nil && !bytes.Equal(encodeWitness(known), data) {
			t.Errorf("%x reads as %v, which is written otherwise", data, known)
		}
	})
}

func TestWitness(t *testing.T) {
	w := newWitness()
	w.note("a", Reach{3, 10})
	w.note("a", Reach{2, 20})
	w.note("", Reach{9, 9})
	if want := map[string]Reach{"a": {3, 20}}; !maps.Equal(w.all(), want) {
		t.Errorf("it knows %v, want %v", w.all(), want)
	}
	w.confirmed("a", 3, 500) // nothing is committed as far as it knows
	if got := w.all()["a"]; got.Index != 20 {
		t.Errorf("an entry that may be taken back counts: %v", got)
	}
	for i := range 2 * maxWitnessed {
		w.note(string(rune('A'+i)), Reach{1, 1})
	}
	if len(w.all()) != maxWitnessed {
		t.Errorf("%d servers are kept", len(w.all()))
	}
}
