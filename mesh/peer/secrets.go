package peer

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/mesh/peer/peerpb"
)

// What is drawn from a connection's TLS exporter (docs/formats.md, Port 7946).
const (
	secretLabel = "EXPORTER-redoubt-peer-psk"
	tagsLabel   = "EXPORTER-redoubt-peer-tags"
)

// A key is a WireGuard public key.
type key [32]byte

// keys are those of one node.
type keys struct{ current, next key } // next is zero: none is announced

// A tag shows that both ends of an exchange have made the same.
type tag [16]byte

// A psk is the pre-shared key of two WireGuard keys. No verb prints it, nor what
// holds one: a formatter does not ask fields that are not exported.
type psk [32]byte

func (psk) Format(f fmt.State, _ rune)     { hide(f) }
func (shared) Format(f fmt.State, _ rune)  { hide(f) }
func (secrets) Format(f fmt.State, _ rune) { hide(f) }
func (entry) Format(f fmt.State, _ rune)   { hide(f) }

func hide(f fmt.State) { f.Write([]byte("(hidden)")) }

// exporter is a connection's.
type exporter func(label string, context []byte, length int) ([]byte, error)

// secrets are what one exchange made: a pre-shared key for each two keys of the
// pair that may shake hands.
type secrets struct {
	epoch           uint64
	made, due       time.Time
	confirm, commit tag
	of              []shared
}

type shared struct {
	lower, higher key
	psk           psk
}

// couples are the keys that may shake hands: those in force, and the next one of
// either node with the one in force of the other. Where both are about to change,
// the node with the higher id goes first.
func couples(lower, higher keys) [][2]key {
	out := [][2]key{{lower.current, higher.current}}
	if higher.next != (key{}) {
		return append(out, [2]key{lower.current, higher.next})
	}
	if lower.next != (key{}) {
		out = append(out, [2]key{lower.next, higher.current})
	}
	return out
}

// draw makes the secrets of an exchange. ids are the lower and the higher one.
func draw(export exporter, ids [2]string, epoch uint64, lower, higher keys, now time.Time) (*secrets, error) {
	life := time.Duration((0.9 + 0.2*rand.Float64()) * float64(secretsLife))
	s := &secrets{epoch: epoch, made: now, due: now.Add(life)}
	number := binary.BigEndian.AppendUint64(nil, epoch)
	context := func(parts ...[]byte) (b []byte) {
		for _, part := range append([][]byte{[]byte(ids[0]), []byte(ids[1])}, parts...) {
			b = lp.Append(b, part)
		}
		return lp.Append(b, number)
	}
	for _, c := range couples(lower, higher) {
		b, err := export(secretLabel, context(c[0][:], c[1][:]), len(psk{}))
		if err != nil {
			return nil, fmt.Errorf("make a pre-shared key: %w", err)
		}
		s.of = append(s.of, shared{c[0], c[1], psk(b)})
		clear(b)
	}
	b, err := export(tagsLabel, context(lower.current[:], optional(lower.next), higher.current[:], optional(higher.next)), 2*len(tag{}))
	if err != nil {
		return nil, fmt.Errorf("make the tags of an exchange: %w", err)
	}
	s.confirm, s.commit = tag(b[:16]), tag(b[16:])
	return s, nil
}

func (s *secrets) between(lower, higher key) (psk, bool) {
	if s == nil {
		return psk{}, false
	}
	for _, x := range s.of {
		if x.lower == lower && x.higher == higher {
			return x.psk, true
		}
	}
	return psk{}, false
}

// cover reports whether all that may shake hands have one.
func (s *secrets) cover(lower, higher keys) bool {
	for _, c := range couples(lower, higher) {
		if _, ok := s.between(c[0], c[1]); !ok {
			return false
		}
	}
	return true
}

func (s *secrets) wipe() {
	if s != nil {
		clear(s.of)
	}
}

func optional(k key) []byte {
	if k == (key{}) {
		return nil
	}
	return k[:]
}

func same(a, b tag) bool { return subtle.ConstantTimeCompare(a[:], b[:]) == 1 }

func parseKeys(in *peerpb.Keys) (k keys, err error) {
	if len(in.GetCurrent()) != len(key{}) || key(in.GetCurrent()) == (key{}) {
		return k, errors.New("a WireGuard key is missing or none")
	}
	k.current = key(in.GetCurrent())
	if n := in.GetNext(); len(n) > 0 {
		if len(n) != len(key{}) || key(n) == (key{}) || key(n) == k.current {
			return k, errors.New("the next WireGuard key is none")
		}
		k.next = key(n)
	}
	return k, nil
}

func parseTag(b []byte) (tag, error) {
	if len(b) != len(tag{}) {
		return tag{}, errors.New("a tag is not 16 bytes long")
	}
	return tag(b), nil
}

func (k keys) message() *peerpb.Keys {
	return &peerpb.Keys{Current: k.current[:], Next: optional(k.next)}
}
