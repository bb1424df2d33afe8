package quorum

import "github.com/redoubt-cluster/redoubt/raftstore"

// Testimony is what another manager answered about a server that starts.
type Testimony struct {
	// Known is how far the server's disk once went, as far as it knows.
	Known raftstore.Reach
	// Leads is whether it leads now: then it knows best.
	Leads bool
	// Index is how far it knows the log, and Servers the configuration there.
	Index   uint64
	Servers []raftstore.Server
}

// Case is a server that asks whether its disk is up to date.
type Case struct {
	ID string
	// Own is how far its disk goes, and Servers the configuration on it.
	Own     raftstore.Reach
	Servers []raftstore.Server
	// Answers are of the servers that answered.
	Answers map[string]Testimony
}

// Verdict is what becomes of a server that asked.
type Verdict int

const (
	// Unknown: too few have answered. Without them there is no quorum either.
	Unknown Verdict = iota
	// UpToDate: it may take part.
	UpToDate
	// OldCopy: its disk was further once. It must give its vote back and begin
	// anew; enough others have what it lacks.
	OldCopy
	// OldButNeeded: its disk was further once, but without it no majority is in
	// sight that holds every entry. It must not vote, and must not be emptied.
	OldButNeeded
)

// Judge decides. What one server says is enough to find a disk to be old, as
// often only one knows: so a lying one can cost the entries on a disk that the
// others have too, and is not believed where they would not be enough. Which
// servers would be enough is what its word cannot decide: a disk is given up
// only where a majority of the voters that the disk itself names have answered,
// besides one of those that are said to vote now.
func Judge(c Case) Verdict {
	old, leader := false, false
	// Who votes may have changed since, and an old disk does not know.
	servers, newest := c.Servers, c.Own.Index
	for id, t := range c.Answers {
		if id != c.ID && t.Index > newest && len(t.Servers) > 0 {
			servers, newest = t.Servers, t.Index
		}
	}
	voters, mine, answered := c.count(servers)
	ownVoters, self, ownAnswered := c.count(c.Servers)
	ownNeed := min(ownVoters/2+1, ownVoters-self) // of two, there is one other
	for id, t := range c.Answers {
		if id == c.ID {
			continue
		}
		old = old || t.Known.Beyond(c.Own)
		leader = leader || t.Leads
	}
	need := voters/2 + 1
	empty := c.Own == raftstore.Reach{}
	switch {
	case old && (empty && leader || answered >= need && ownAnswered >= ownNeed):
		return OldCopy
	case old:
		return OldButNeeded
	case leader, len(servers) > 0 && len(c.Servers) > 0 && answered >= need-mine:
		return UpToDate
	}
	return Unknown
}

// count returns how many of servers vote, whether this server is among them (1
// or 0), and how many of the others have answered.
func (c *Case) count(servers []raftstore.Server) (voters, mine, answered int) {
	for _, s := range servers {
		if !s.Voter {
			continue
		}
		voters++
		if s.ID == c.ID {
			mine = 1
		} else if _, ok := c.Answers[s.ID]; ok {
			answered++
		}
	}
	return voters, mine, answered
}

// String implements fmt.Stringer.
func (v Verdict) String() string {
	return [...]string{"too few have answered", "up to date", "an old copy", "an old copy that is needed"}[v]
}
