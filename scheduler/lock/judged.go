package lock

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
)

// Feature is what a node that has the lock calls it, and Waits and Broken are what it
// says of it where it follows no chain. Else it says the chain's Summary.
const (
	Feature = "deployment-lock"
	Waits   = "no chain was seen yet: nothing runs"
	Broken  = "what this node trusts is damaged: nothing runs"
)

// Says is what the node says of its lock: a Summary, Waits or Broken. Empty: it has none.
func (t *Trust) Says() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !t.on():
		return ""
	case t.damaged != nil:
		return Broken
	case t.chain == nil:
		return Waits
	}
	return t.chain.Summary()
}

// Holds returns an error unless one of those signed says now that a task may run which
// does already, by the chain that the node follows. It changes nothing: no chain is
// taken that came along, and nothing is remembered.
func (t *Trust) Holds(now time.Time, task Task, signed ...*lockpb.Signed) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !t.on():
		return nil
	case t.damaged != nil:
		return t.damaged
	case t.chain == nil:
		return refuse(RuleChain, Waits)
	}
	refusal := ErrUnsigned
	for _, sig := range signed {
		if sig == nil {
			continue
		}
		s, err := t.chain.Verify(now, sig.GetStatement())
		if err == nil {
			err = match(s, task)
		}
		if err == nil {
			return nil
		}
		refusal = err
	}
	return refusal
}

// Kept returns an error unless the file is what the node goes by: what is there instead
// it would believe when it starts anew.
func (t *Trust) Kept() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.kept()
}

func (t *Trust) kept() error {
	if t.damaged != nil {
		return t.damaged
	}
	now := Open(filepath.Dir(t.path), t.required)
	switch {
	case now.damaged != nil:
		return errors.New(t.path + " was damaged since it was written")
	case proto.Equal(now.state, t.state):
		return nil
	case now.unknown():
		return fmt.Errorf("%s is gone: once rund starts anew this node does not know whose services to run", t.path)
	}
	return fmt.Errorf("%s was changed since it was written: once rund starts anew this node trusts %s", t.path, now.Says())
}
