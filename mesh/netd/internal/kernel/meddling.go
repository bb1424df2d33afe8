package kernel

import "time"

// Meddling is what somebody did to rules of ours that were then put back, for those
// who operate the node. Other changes, of interfaces for instance, are not in it:
// what runs in a sandbox may make some.
type Meddling struct {
	Times uint64
	Last  time.Time
	What  string // the last time
}

// Note adds one.
func (m *Meddling) Note(what string) {
	*m = Meddling{m.Times + 1, time.Now(), what}
}
