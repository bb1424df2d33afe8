package peer

import (
	"bytes"
	"maps"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/peer/peerpb"
)

func drawID(t *rapid.T, label string) string {
	return ident.FromBytes([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label)))
}

// What is said is what is heard, up to the largest statement.
func TestStatementRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &statement{network: drawID(t, "network"), number: number{1 + rapid.Uint64Max(1<<63).Draw(t, "boot"), 1 + rapid.Uint64Max(1<<63).Draw(t, "sequence")},
			made: time.UnixMilli(rapid.Int64Range(1, 1<<50).Draw(t, "made")), tasks: map[string]bool{}}
		for range rapid.IntRange(0, 40).Draw(t, "tasks") {
			s.tasks[drawID(t, "task")] = rapid.Bool().Draw(t, "serving")
		}
		b, err := s.encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseStatement(b)
		if err != nil || got.number != s.number || got.network != s.network || !got.made.Equal(s.made) || !maps.Equal(got.tasks, s.tasks) {
			t.Fatalf("%+v became %+v: %v", s, got, err)
		}
	})
	largest := &statement{network: ident.New(), number: number{1<<64 - 1, 1<<64 - 1}, made: time.UnixMilli(1 << 60), tasks: map[string]bool{}}
	for i := range maxSaid {
		largest.tasks[ident.New()] = i%2 == 0
	}
	b, err := largest.encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseStatement(b); err != nil {
		t.Errorf("the largest statement, %d bytes: %v", len(b), err)
	}
	largest.tasks[ident.New()] = true
	if b, err = largest.encode(); err != nil {
		t.Fatal(err)
	}
	if _, err := parseStatement(b); err == nil {
		t.Error("one task more than a statement may have")
	}
}

// There is one way to write a statement, and every other one is refused.
func TestStatementRefuses(t *testing.T) {
	low, high := bytes.Repeat([]byte{1}, 16), bytes.Repeat([]byte{2}, 16)
	good := func() *peerpb.Statement {
		return &peerpb.Statement{Network: ident.New(), Boot: 1, Sequence: 1, Made: 1, Serving: bytes.Clone(low), Withdrawn: bytes.Clone(high)}
	}
	encode := func(m *peerpb.Statement) []byte {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if _, err := parseStatement(encode(good())); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*peerpb.Statement){
		"no network":       func(m *peerpb.Statement) { m.Network = "" },
		"a network's name": func(m *peerpb.Statement) { m.Network = "back" },
		"no boot":          func(m *peerpb.Statement) { m.Boot = 0 },
		"no sequence":      func(m *peerpb.Statement) { m.Sequence = 0 },
		"no time":          func(m *peerpb.Statement) { m.Made = 0 },
		"before 1970":      func(m *peerpb.Statement) { m.Made = -1 },
		"half a task":      func(m *peerpb.Statement) { m.Serving = low[:15] },
		"a task in both":   func(m *peerpb.Statement) { m.Withdrawn = low },
		"a task twice":     func(m *peerpb.Statement) { m.Serving = append(m.Serving, low...) },
		"another order":    func(m *peerpb.Statement) { m.Serving, m.Withdrawn = append(bytes.Clone(high), low...), nil },
		"too many":         func(m *peerpb.Statement) { m.Serving = make([]byte, 16*maxSaid+16) },
		"an unknown field": func(m *peerpb.Statement) { m.ProtoReflect().SetUnknown([]byte{0x98, 0x06, 0x01}) },
	} {
		m := good()
		change(m)
		if _, err := parseStatement(encode(m)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	b := encode(good())
	for name, b := range map[string][]byte{
		"nothing":           nil,
		"trailing bytes":    append(bytes.Clone(b), 0),
		"cut off":           b[:len(b)-1],
		"a field again":     append(bytes.Clone(b), b[:28]...),
		"fields turned":     append(bytes.Clone(b[28:]), b[:28]...),
		"a long number":     append(bytes.Clone(b[:29]), append([]byte{0x81, 0x00}, b[30:]...)...),
		"a field of zeroes": append(bytes.Clone(b), 0x2a, 0x00),
	} {
		if _, err := parseStatement(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzStatement: what is accepted is written as it came, and is within its bounds.
func FuzzStatement(f *testing.F) {
	for n := range 4 {
		s := &statement{network: ident.New(), number: number{1 << 60, uint64(n) + 1}, made: time.UnixMilli(1 << 40), tasks: map[string]bool{}}
		for i := range n {
			s.tasks[ident.New()] = i%2 == 0
		}
		b, err := s.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseStatement(b)
		if err != nil {
			return
		}
		again, err := s.encode()
		if err != nil || !bytes.Equal(again, b) || len(s.tasks) > maxSaid || !ident.Valid(s.network) || s.boot == 0 || s.sequence == 0 {
			t.Errorf("%x became %x: %v", b, again, err)
		}
		for id := range s.tasks {
			if !ident.Valid(id) {
				t.Errorf("%q is no task", id)
			}
		}
	})
}
