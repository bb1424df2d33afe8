package raftstore_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"time"
)

// simMeddler does something to single messages of raft, where the rest of simNet
// knows connections: an answer is lost, and its connection with it, though what
// was asked for is done; or a message is late, by more than an election takes,
// and all behind it on its connection with it.
//
// Who waits for an answer in vain gives the connection up. What it had sent stays
// under way, and comes when there may be another leader, and another term.
type simMeddler struct {
	// Guarded by the net's mu.
	rules []*simMeddling
	done  simMeddled
}

// simMeddling is done to the next messages of a kind.
type simMeddling struct {
	kind   simMessage
	answer bool
	late   time.Duration // 0: an answer is lost
	left   int
}

// simMessage is a kind of message: for raft's, the byte that its transport sends
// first.
type simMessage byte

const (
	simAppend, simVote, simSnapshot, simTimeout, simPreVote simMessage = 0, 1, 2, 3, 4
	simBeat                                                 simMessage = 5 // without entries
	simMessages                                                        = 6
)

// simMeddled counts, by kind of message: answers lost, and requests and answers
// that were late.
type simMeddled struct{ lost, late, lateAnswer [simMessages]int }

func (m *simMeddled) add(o simMeddled) {
	for i := range simMessages {
		m.lost[i] += o.lost[i]
		m.late[i] += o.late[i]
		m.lateAnswer[i] += o.lateAnswer[i]
	}
}

// all reports whether each kind of what counts most was met in each way.
func (m *simMeddled) all() bool {
	for _, k := range []simMessage{simAppend, simVote, simSnapshot} {
		if m.lost[k] == 0 || m.late[k] == 0 || m.lateAnswer[k] == 0 {
			return false
		}
	}
	return true
}

func (m simMeddled) String() string {
	of := func(n [simMessages]int) string {
		return fmt.Sprintf("append:%d,vote:%d,snapshot:%d,timeout:%d,pre-vote:%d,heartbeat:%d",
			n[simAppend], n[simVote], n[simSnapshot], n[simTimeout], n[simPreVote], n[simBeat])
	}
	return fmt.Sprintf("answers-lost=%s late=%s answers-late=%s", of(m.lost), of(m.late), of(m.lateAnswer))
}

// meddle adds a rule for one of the kinds.
func (n *simNet) meddle(r *rand.Rand, kinds ...simMessage) {
	n.mu.Lock()
	defer n.mu.Unlock()
	rule := &simMeddling{kind: kinds[r.IntN(len(kinds))], left: 1 + r.IntN(6)}
	switch r.IntN(3) {
	case 0:
		rule.answer = true
	case 1:
		rule.answer = true
		fallthrough
	default:
		rule.late = time.Duration(100+r.IntN(6000)) * time.Millisecond
	}
	n.meddler.rules = append(n.meddler.rules, rule)
}

// obey ends all rules.
func (n *simNet) obey() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.meddler.rules = nil
}

// heartbeat is how a message of the leader without entries names them.
var heartbeat = []byte("\xa7Entries\xc0")

// meddleLocked is told of each write, and says what becomes of it.
func (m *simMeddler) meddleLocked(c *simConn, p []byte) (late time.Duration, lost bool) {
	asker, begins := c, c.rested
	if c.answers {
		asker = c.peer
		begins, asker.rested = true, true
	} else if begins || asker.asked == byte(simAppend) || asker.asked == byte(simBeat) { // which are sent without waiting
		c.asked, c.rested, begins = p[0], false, true
		if p[0] == byte(simAppend) && bytes.Contains(p, heartbeat) {
			c.asked = byte(simBeat)
		}
	}
	if !begins {
		return 0, false
	}
	for i, rule := range m.rules {
		if rule.kind != simMessage(asker.asked) || rule.answer != c.answers {
			continue
		}
		if rule.left--; rule.left == 0 {
			m.rules = append(m.rules[:i:i], m.rules[i+1:]...)
		}
		switch {
		case rule.late == 0:
			m.done.lost[rule.kind]++
		case rule.answer:
			m.done.lateAnswer[rule.kind]++
		default:
			m.done.late[rule.kind]++
		}
		return rule.late, rule.late == 0
	}
	return 0, false
}
