package peer

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/internal/strictpb"
	"github.com/redoubt-cluster/redoubt/mesh/peer/peerpb"
)

// A statement is all that a node says of its endpoints on one network. It takes the
// place of the one before, so none can be missed and no order be wrong: of two, the
// one with the higher number holds.
type statement struct {
	network string
	number
	made  time.Time
	tasks map[string]bool // whether names and virtual addresses may lead there
}

// A number orders the statements of one node on one network.
type number struct{ boot, sequence uint64 }

func (n number) after(o number) bool {
	return n.boot > o.boot || n.boot == o.boot && n.sequence > o.sequence
}

// statementLabel begins what is signed (docs/formats.md, Port 7946).
const statementLabel = "redoubt endpoints v1\x00"

// signedOf is what a node signs under its statement.
func signedOf(node string, statement []byte) []byte {
	return lp.Append(lp.Append([]byte(statementLabel), []byte(node)), statement)
}

func (s *statement) encode() ([]byte, error) {
	m := &peerpb.Statement{Network: s.network, Boot: s.boot, Sequence: s.sequence, Made: s.made.UnixMilli()}
	var ids [][16]byte // in their order, which is not that of the ids' text
	serving := map[[16]byte]bool{}
	for id, serves := range s.tasks {
		b, ok := ident.Bytes(id)
		if !ok {
			return nil, fmt.Errorf("%.60q is no id of a task", id)
		}
		ids, serving[b] = append(ids, b), serves
	}
	slices.SortFunc(ids, func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) })
	for _, b := range ids {
		if serving[b] {
			m.Serving = append(m.Serving, b[:]...)
		} else {
			m.Withdrawn = append(m.Withdrawn, b[:]...)
		}
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// parseStatement takes a statement as encode makes them, and nothing else.
func parseStatement(b []byte) (*statement, error) {
	var m peerpb.Statement
	if len(b) > maxStatement {
		return nil, fmt.Errorf("a statement of %d bytes exceeds the limit of %d", len(b), maxStatement)
	}
	if err := proto.Unmarshal(b, &m); err != nil || strictpb.Unknown(&m) != "" {
		return nil, errors.New("a statement is malformed")
	}
	s := &statement{network: m.GetNetwork(), number: number{m.GetBoot(), m.GetSequence()}, made: time.UnixMilli(m.GetMade()), tasks: map[string]bool{}}
	if !ident.Valid(s.network) || s.boot == 0 || s.sequence == 0 || m.GetMade() <= 0 {
		return nil, errors.New("a statement has no network, number or time")
	}
	for serving, ids := range map[bool][]byte{true: m.GetServing(), false: m.GetWithdrawn()} {
		var before []byte
		for len(ids) > 0 {
			if len(ids) < 16 || before != nil && bytes.Compare(before, ids[:16]) >= 0 {
				return nil, errors.New("a statement's tasks are cut off, or not in order")
			}
			id := ident.FromBytes([16]byte(ids))
			if _, twice := s.tasks[id]; twice {
				return nil, errors.New("a statement has a task twice")
			}
			s.tasks[id] = serving
			before, ids = ids[:16], ids[16:]
		}
	}
	if len(s.tasks) > maxSaid {
		return nil, fmt.Errorf("a statement has %d tasks: at most %d are possible", len(s.tasks), maxSaid)
	}
	if again, err := s.encode(); err != nil || !bytes.Equal(again, b) {
		return nil, errors.New("a statement is not encoded as it should be")
	}
	return s, nil
}

// checkSaid bounds what comes around a statement.
func checkSaid(m *peerpb.Said) error {
	size := 0
	for _, c := range m.GetChain() {
		size += len(c)
	}
	switch {
	case m.GetNode() != "" && !ident.Valid(m.GetNode()):
		return errors.New("a statement is of no node")
	case len(m.GetSignature()) == 0 || len(m.GetSignature()) > maxSignature || len(m.GetChain()) == 0 || len(m.GetChain()) > maxChain || size > maxChainBytes:
		return errors.New("a statement has no signature or certificate, or too large a one")
	case len(m.GetPass()) > maxPass || slices.ContainsFunc(m.GetPass(), func(id string) bool { return !ident.Valid(id) }):
		return fmt.Errorf("a statement is to be passed to more than %d nodes, or to none", maxPass)
	}
	return nil
}
