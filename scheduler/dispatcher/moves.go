package dispatcher

import "time"

// moves bounds how often the address of a node is recorded: each makes an entry of the
// replicated log, and another table on every node of the mesh, whose containers are
// kept from it. A node that has two ways out, or is two, may open a session every two
// seconds from another one.
type moves struct {
	at    string    // as it was recorded last, or is to be
	begun time.Time // the interval in which n were recorded
	n     int
	held  *move // the newest of those beyond
	told  bool  // somebody was, in this interval
}

// A move is to an address. before is that of a session which still lived; empty: none
// did.
type move struct{ to, before string }

// take says whether the move is to be recorded now. A later one takes the place of one
// that is held.
func (m *moves) take(to move, now time.Time) bool {
	if to.to == "" {
		return false
	}
	m.held = nil
	if to.to == m.at {
		return false
	}
	if now.Sub(m.begun) >= moveInterval {
		m.begun, m.n, m.told = now, 0, false
	}
	if m.n >= maxMoves {
		m.held = &to
		return false
	}
	m.n++
	m.at = to.to
	return true
}

// due is the move that was held until now, if there is one.
func (m *moves) due(now time.Time) (move, bool) {
	if m.held == nil || now.Sub(m.begun) < moveInterval {
		return move{}, false
	}
	to := *m.held
	return to, m.take(to, now)
}

// tell reports whether somebody is to be told that moves are held: once an interval.
func (m *moves) tell() bool {
	tell := m.held != nil && !m.told
	m.told = m.told || tell
	return tell
}
