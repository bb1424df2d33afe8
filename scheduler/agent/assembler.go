package agent

import (
	"errors"
	"fmt"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// assembler checks the sequence of Assignments and joins a complete set that
// came in parts. It is heard once such a set was.
type assembler struct {
	sequence uint64
	parts    *assignmentSet
	heard    bool
	holds    bool // the manager was told what the node holds
}

type assignmentSet struct {
	complete bool
	// unchanged: it is what was held when the session began.
	unchanged bool
	update    []*schedulerpb.Assignment
	remove    []string
}

// add returns what may take effect now, or nil. The contract: the first
// message is complete with sequence 1, each later one has the next number, a
// set in parts is continued without anything between.
func (a *assembler) add(m *schedulerpb.Assignments) (*assignmentSet, error) {
	if m.Sequence != a.sequence+1 {
		return nil, fmt.Errorf("assignments %d arrived after %d: some are missing", m.Sequence, a.sequence)
	}
	a.sequence++
	if m.Unchanged {
		if !a.holds || !m.Complete || m.More || a.heard || a.parts != nil || len(m.Update)+len(m.Remove) > 0 {
			return nil, errors.New("assignments that are called unchanged are malformed")
		}
		a.heard = true
		return &assignmentSet{complete: true, unchanged: true}, nil
	}
	switch {
	case m.Complete && a.parts != nil, m.Complete && len(m.Remove) > 0, a.parts != nil && len(m.Remove) > 0:
		return nil, errors.New("a complete set of assignments is malformed")
	case !m.Complete && a.parts == nil && !a.heard:
		return nil, errors.New("the first assignments are not complete")
	case !m.Complete && a.parts == nil && m.More:
		return nil, errors.New("an increment of assignments claims to be unfinished")
	case !m.Complete && a.parts == nil:
		return &assignmentSet{update: m.Update, remove: m.Remove}, nil
	}
	if a.parts == nil {
		a.parts = &assignmentSet{complete: true}
	}
	a.parts.update = append(a.parts.update, m.Update...)
	if len(a.parts.update) > maxTasks {
		return nil, fmt.Errorf("more than %d tasks assigned to this node", maxTasks)
	}
	if m.More {
		return nil, nil
	}
	set := a.parts
	a.parts, a.heard = nil, true
	return set, nil
}
