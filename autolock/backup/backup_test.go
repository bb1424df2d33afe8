package backup

import (
	"bytes"
	"errors"
	"testing"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// made is a backup of two slots, a keyset and a state of some chunks.
type made struct {
	file   []byte
	keys   []autolock.OperatorKey
	keyset []byte
	state  []byte
}

func write(t testing.TB, stateBytes int) made {
	t.Helper()
	m := made{keys: []autolock.OperatorKey{autolock.NewOperatorKey(), autolock.NewOperatorKey()}, keyset: bytes.Repeat([]byte("keyset"), 100),
		state: bytes.Repeat([]byte("0123456789abcdef"), stateBytes/16)}
	facts := &keydpb.BackupFacts{ClusterId: ident.New(), NodeId: ident.New(), Incarnation: 3, CreatedAt: 1, Index: 7, Version: "test",
		Slots: &keydpb.SlotSet{Epoch: 5, Slots: []*keydpb.Slot{m.keys[0].Slot(), m.keys[1].Slot(),
			{Id: ident.New(), Kind: keydpb.SlotKind_SLOT_KIND_FILE, Name: "autolock-off"}}}}
	facts.Slots.Slots[1].Name = "second"
	head, stateKey, err := Seal(facts, m.keyset)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := NewWriter(&out, head, stateKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(m.state); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	m.file = out.Bytes()
	return m
}

// open reads all of a file with a seed.
func open(file, seed []byte) (keyset, state []byte, err error) {
	r, err := NewReader(bytes.NewReader(file))
	if err != nil {
		return nil, nil, err
	}
	keyset, stateKey, err := r.Head.Open(keydpb.SlotKind_SLOT_KIND_OPERATOR, seed)
	if err != nil {
		return nil, nil, err
	}
	var out bytes.Buffer
	err = r.State(&out, stateKey)
	return keyset, out.Bytes(), err
}

func verify(file []byte) error {
	r, err := NewReader(bytes.NewReader(file))
	if err != nil {
		return err
	}
	return r.Verify()
}

func TestEveryKeyOpensIt(t *testing.T) {
	for _, size := range []int{0, 16, chunkBytes, chunkBytes + 16, 3 * chunkBytes} {
		m := write(t, size)
		if err := verify(m.file); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		for _, k := range m.keys {
			keyset, state, err := open(m.file, k.Seed())
			if err != nil || !bytes.Equal(keyset, m.keyset) || !bytes.Equal(state, m.state) {
				t.Errorf("%d bytes: what is read is not what was written (%v)", size, err)
			}
		}
		other := autolock.NewOperatorKey()
		if _, _, err := open(m.file, other.Seed()); !errors.Is(err, autolock.ErrWrongSeed) {
			t.Errorf("another key: %v", err)
		}
		if bytes.Contains(m.file, m.keyset[:24]) || size > 0 && bytes.Contains(m.file, m.state[:16]) {
			t.Error("something stands in clear")
		}
	}
}

// A file that is cut anywhere, flipped anywhere or goes on after its end is
// refused, with a key and without.
func TestDamage(t *testing.T) {
	m := write(t, 2*chunkBytes+160)
	seed := m.keys[1].Seed()
	check := func(what string, at int, file []byte) {
		t.Helper()
		if verify(file) == nil {
			t.Fatalf("%s at %d of %d: it verifies", what, at, len(m.file))
		}
		if _, _, err := open(file, seed); err == nil {
			t.Fatalf("%s at %d of %d: it opens", what, at, len(m.file))
		}
	}
	step := 3
	for at := 0; at < len(m.file); at += step {
		if at >= 4096 { // head, keys and keyset closely, then samples
			step = 997
		}
		check("cut", at, m.file[:at])
		flipped := bytes.Clone(m.file)
		flipped[at] ^= 0x10
		check("flipped", at, flipped)
	}
	check("longer", len(m.file), append(bytes.Clone(m.file), 0))
}

// Who can make the digest right again still cannot move, drop or mix chunks, or
// give the head other facts.
func TestForgery(t *testing.T) {
	a, b := write(t, 3*chunkBytes), write(t, 3*chunkBytes)
	parts := func(file []byte) (head []byte, chunks [][]byte) {
		r, err := NewReader(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		for {
			p, err := r.part(chunkBytes + autolock.Overhead)
			if err != nil {
				t.Fatal(err)
			}
			if p == nil {
				return r.Raw, chunks
			}
			chunks = append(chunks, p)
		}
	}
	head, chunks := parts(a.file)
	_, foreign := parts(b.file)
	for name, forged := range map[string][][]byte{
		"the last dropped":  chunks[:len(chunks)-1],
		"the first dropped": chunks[1:],
		"two exchanged":     {chunks[1], chunks[0], chunks[2]},
		"one twice":         {chunks[0], chunks[0], chunks[1], chunks[2]},
		"none":              nil,
		"of another backup": {chunks[0], foreign[1], chunks[2]},
		"two backups":       append(append([][]byte(nil), chunks...), chunks...),
	} {
		file := assemble(head, forged)
		if len(forged) > 0 {
			if err := verify(file); err != nil {
				t.Errorf("%s: the forger's digest is wrong: %v", name, err)
			}
		}
		if _, _, err := open(file, a.keys[0].Seed()); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	otherHead, _ := parts(b.file)
	if _, _, err := open(assemble(otherHead, chunks), b.keys[0].Seed()); !errors.Is(err, ErrDamaged) {
		t.Errorf("the head of another backup: %v", err)
	}
}

// assemble writes a file of given parts with a digest that is right.
func assemble(head []byte, chunks [][]byte) []byte {
	var out bytes.Buffer
	w, _ := NewWriter(&out, head, make([]byte, autolock.KeyLen))
	for _, c := range chunks {
		w.w.Write(append([]byte{byte(len(c) >> 24), byte(len(c) >> 16), byte(len(c) >> 8), byte(len(c))}, c...))
	}
	w.w.Write(make([]byte, 4))
	w.w.Write(w.sum.Sum(nil))
	return out.Bytes()
}

func FuzzReader(f *testing.F) {
	m := write(f, 32)
	f.Add(m.file)
	f.Add(m.file[:200])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, file []byte) {
		r, err := NewReader(bytes.NewReader(file))
		if err != nil {
			return
		}
		if r.Verify() == nil && !bytes.Equal(file, m.file) {
			// A digest is no secret: what verifies must still not open.
			if _, _, err := open(file, m.keys[0].Seed()); err == nil {
				t.Error("a file that nobody wrote opens")
			}
		}
	})
}
