package kernel

import (
	"errors"
	"fmt"
	"sync"

	"github.com/google/nftables"
)

// maxCommits is how often a transaction, or a reading, is tried while others
// change the ruleset.
const maxCommits = 5

// rulesets is held by who changes a ruleset or reads all of a table: a dump that
// a commit falls into is cut short, and this process has several owners of
// tables.
var rulesets sync.Mutex

var errWithoutPause = errors.New("nftables: the ruleset of this node is changed by others without pause: stop what does it")

// Commit makes what change queues in one transaction, and reads what is in force
// then. It is repeated where somebody else's transaction fell between; attempt
// counts from 0. It returns what was read and the generation it is true at.
func Commit[T any](change func(c *nftables.Conn, attempt int) error, read func() (T, error)) (got T, gen uint32, err error) {
	rulesets.Lock()
	defer rulesets.Unlock()
	for attempt := range maxCommits {
		before, err := Generation()
		if err != nil {
			return got, 0, err
		}
		if err := WithNFT(func(c *nftables.Conn) error { return errors.Join(change(c, attempt), c.Flush()) }); err != nil {
			return got, 0, fmt.Errorf("nftables: %w", err)
		}
		if got, err = read(); err != nil {
			if now, e := Generation(); e == nil && now != before+1 {
				continue // somebody's transaction cut the dump short
			}
			return got, 0, err
		}
		// One commit is one generation.
		if gen, err = Generation(); err != nil || gen == before+1 {
			return got, gen, err
		}
	}
	return got, 0, errWithoutPause
}

// Read reads what is in force, without anybody's transaction between, and the
// generation it is true at.
func Read[T any](read func() (T, error)) (got T, gen uint32, err error) {
	rulesets.Lock()
	defer rulesets.Unlock()
	for range maxCommits {
		before, err := Generation()
		if err != nil {
			return got, 0, err
		}
		got, readErr := read()
		now, err := Generation()
		if err != nil {
			return got, 0, err
		}
		if now == before {
			return got, now, readErr
		}
	}
	return got, 0, errWithoutPause
}
