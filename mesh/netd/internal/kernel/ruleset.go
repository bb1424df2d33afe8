package kernel

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// A ruleset is that of one namespace, as far as this process had a hand in it.
//
// The kernel numbers the states of a ruleset: each transaction of anybody makes
// the next generation. One of ours is taken at a single generation alone and makes
// the one after it. So it is known, without a question, of a series of our own
// that nobody else's fell between: who knew a table at the series' beginning knows
// it at its end, unless a transaction of the series was about that very table.
// A stranger's makes a generation that is none of the series, whenever it comes.
type ruleset struct {
	// turn is held by who changes the ruleset or reads all of a table: a dump that
	// a commit falls into is cut short, and this process has several owners of
	// tables.
	turn sync.Mutex

	cookie uint64
	users  int // guarded by rulesets

	mu sync.Mutex // guards the following
	// All transactions after the generation since, up to last, are ours; last is 0
	// while there was none.
	since, last uint32
	// written are the generations that our last transactions about a table made.
	written map[tableName]uint32
}

type tableName struct {
	family nftables.TableFamily
	name   string
}

// rulesets are those of the namespaces to which a Netfilter is open, by their
// cookies, which the kernel gives once.
var rulesets = struct {
	sync.Mutex
	of map[uint64]*ruleset
}{of: make(map[uint64]*ruleset)}

// useRuleset is that of the socket's namespace. Release it.
func useRuleset(fd int) (*ruleset, error) {
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return nil, fmt.Errorf("netlink: which namespace it is: %w", err)
	}
	rulesets.Lock()
	defer rulesets.Unlock()
	r := rulesets.of[cookie]
	if r == nil {
		r = &ruleset{cookie: cookie, written: make(map[tableName]uint32)}
		rulesets.of[cookie] = r
	}
	r.users++
	return r, nil
}

func (r *ruleset) release() {
	rulesets.Lock()
	defer rulesets.Unlock()
	if r.users--; r.users == 0 {
		delete(rulesets.of, r.cookie)
	}
}

// made notes a transaction of ours about these tables, which found the one
// generation and made the other.
func (r *ruleset) made(found, gen uint32, about map[tableName]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == 0 || r.last != found {
		r.since = found
		clear(r.written) // what is older than the series is of no use
	}
	r.last = gen
	for t := range about {
		r.written[t] = gen
	}
}

// holds reports whether the tables are at our last transaction as they were at the
// generation known, and which one that transaction made.
func (r *ruleset) holds(known uint32, tables []*nftables.Table) (last uint32, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Numbers go round: what counts is how far each is from the series' beginning.
	far := known - r.since
	if known == 0 || r.last == 0 || far > r.last-r.since {
		return 0, false
	}
	for _, t := range tables {
		if gen, there := r.written[tableName{t.Family, t.Name}]; there && gen-r.since > far {
			return 0, false
		}
	}
	return r.last, true
}

// about are the tables that the messages of a transaction name.
func about(messages []Message) map[tableName]bool {
	tables := make(map[tableName]bool)
	for _, m := range messages {
		if len(m.Body) == 0 {
			continue
		}
		named := false
		attributes(m.Body, func(kind uint16, v []byte) {
			if kind == unix.NFTA_TABLE_NAME && !named { // the same number for chains, rules, sets, elements and objects
				named = true
				tables[tableName{nftables.TableFamily(m.Body[0]), string(bytes.TrimRight(v, "\x00"))}] = true
			}
		})
	}
	return tables
}
