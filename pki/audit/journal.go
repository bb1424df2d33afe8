package audit

import (
	"fmt"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
)

// JournalMethod stands before an event of keyd's journal where records have a
// method.
const JournalMethod = "keyd/"

// routine are the events that come often and say that all is as ever: runs of them
// are one record.
var routine = map[string]bool{"sign-workloads": true, "open-and-seal": true, "sign-crl": true}

// Routine reports whether a line is one that nobody waits for.
func Routine(event, outcome string) bool { return routine[event] && outcome == "ok" }

// Line is a line that a manager's keyd wrote down.
type Line struct {
	Seq uint64
	At  int64 // Unix nanoseconds, by that manager's clock
	// Event and Outcome are keyd's words; the others are empty where they do not apply.
	Event, Outcome, Node, Role, Token, Detail string
	// Keys are SHA-256 of the public keys that were certified, in hex.
	Keys []string
	// Hash is the line's, Prev that of the one before.
	Hash, Prev []byte
}

// JournalRecord is a record of some lines of a manager's journal.
type JournalRecord struct {
	First, Last Line
	Record      *auditpb.Record
}

// OfJournal makes records of lines that a manager's keyd wrote down: one of each,
// and one of lines that say the same, or nothing new, one after the other.
func OfJournal(manager string, lines []Line) (out []JournalRecord) {
	for _, l := range lines {
		if n := len(out); n > 0 && alike(out[n-1].Last, l) {
			last := &out[n-1]
			last.Last = l
			last.Record.Times = max(last.Record.Times, 1) + 1
			if routine[l.Event] && last.Record.Method != JournalMethod+l.Event {
				last.Record.Method = JournalMethod + "routine"
			}
			last.Record.Imported.Last, last.Record.Imported.At, last.Record.Imported.Hash = l.Seq, l.At, l.Hash
			continue
		}
		out = append(out, JournalRecord{First: l, Last: l, Record: ofLine(manager, l)})
	}
	return out
}

// alike reports whether two lines are told as one.
func alike(a, b Line) bool {
	if Routine(a.Event, a.Outcome) && Routine(b.Event, b.Outcome) {
		return true
	}
	return outcomeOf(a) == auditpb.Outcome_OUTCOME_DENIED && a.Event == b.Event && a.Outcome == b.Outcome && a.Node == b.Node && a.Detail == b.Detail
}

func outcomeOf(l Line) auditpb.Outcome {
	switch {
	case l.Event == "journal":
		return auditpb.Outcome_OUTCOME_FAULT
	case l.Outcome == "denied" || l.Outcome == "wrong key":
		return auditpb.Outcome_OUTCOME_DENIED
	case l.Outcome == "begun":
		return auditpb.Outcome_OUTCOME_BEGUN
	}
	return auditpb.Outcome_OUTCOME_DONE
}

func ofLine(manager string, l Line) *auditpb.Record {
	r := fromJournal(manager, l.Event, outcomeOf(l))
	r.Imported = &auditpb.Imported{First: l.Seq, Last: l.Seq, At: l.At, Hash: clipBytes(l.Hash)}
	for _, k := range l.Keys[:min(len(l.Keys), maxActs)] {
		r.Imported.Keys = append(r.Imported.Keys, clip(k, maxObject))
	}
	for _, o := range [][2]string{{"Node", l.Node}, {"Role", l.Role}, {"Token", l.Token}} {
		if o[1] != "" {
			r.Objects = append(r.Objects, clip(o[0]+" "+o[1], maxObject))
		}
	}
	if r.Reason = l.Detail; l.Outcome != "ok" && l.Outcome != "denied" {
		r.Reason = l.Outcome + ": " + r.Reason
		if l.Detail == "" {
			r.Reason = l.Outcome
		}
	}
	r.Reason = clip(r.Reason, maxReason)
	return r
}

// LostLines is the record of a journal that does not go on behind the line that was
// read last.
func LostLines(manager string, behind uint64) *auditpb.Record {
	r := fromJournal(manager, "journal", auditpb.Outcome_OUTCOME_FAULT)
	if behind == 0 {
		r.Reason = "the journal of this manager's keyd does not begin with its first line: older files were dropped, cut or changed, and what is missing is not known"
		return r
	}
	r.Reason = fmt.Sprintf("the journal of this manager's keyd does not go on behind line %d: it was cut, changed or set aside, and what is missing is not known", behind)
	return r
}

func fromJournal(manager, event string, outcome auditpb.Outcome) *auditpb.Record {
	return &auditpb.Record{Request: ident.New()[:12], Outcome: outcome, Method: clip(JournalMethod+event, maxObject),
		Caller: &auditpb.Caller{Name: "keyd of manager " + manager, Node: manager, Role: "manager", Manager: manager}}
}

func clipBytes(b []byte) []byte { return b[:min(len(b), 32)] }
