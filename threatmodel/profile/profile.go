package profile

import (
	"slices"
	"strings"
)

// Coverage says how much of a requirement its controls judge.
type Coverage string

// Coverages.
const (
	Full    Coverage = "full"    // where they pass, it is met
	Partial Coverage = "partial" // a part of it, which the note names
	None    Coverage = "none"    // there is no control yet: it is not evaluated
	Outside Coverage = "outside" // it asks for nothing that the cluster does; the note says who does
)

// Profile is a list of requirements, with those of the profiles that it includes
// before its own.
type Profile struct {
	ID           string
	Title        string
	Source       string // the document that it stands for, with its version
	Text         string
	SHA256       string // of its file and of those that it includes, in hex
	Requirements []Requirement
}

// Requirement is one line that an auditor asks for.
type Requirement struct {
	ID       string
	Title    string
	Family   string // the chapter that it is of
	Coverage Coverage
	Controls []string // ids, none twice; none where coverage is None or Outside
	Note     string   // what is left out, and why
}

// Controls are the ids of all controls that judge something, in order.
func (p *Profile) Controls() []string {
	var ids []string
	for _, r := range p.Requirements {
		ids = append(ids, r.Controls...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// Count is how many requirements have a coverage.
func (p *Profile) Count(c Coverage) int {
	n := 0
	for _, r := range p.Requirements {
		if r.Coverage == c {
			n++
		}
	}
	return n
}

// Within is the part of a profile that the controls judge which keep names, with an
// id and a title that say so. A requirement of which all controls are left out is
// left out; one of which some are is covered in part. What no control judges stays.
func (p *Profile) Within(name, title string, keep func(control string) bool) *Profile {
	part := *p
	part.ID, part.Title, part.Requirements = p.ID+"."+name, p.Title+" ("+title+")", nil
	for _, r := range p.Requirements {
		all := r.Controls
		r.Controls = slices.DeleteFunc(slices.Clone(all), func(id string) bool { return !keep(id) })
		switch {
		case len(all) > 0 && len(r.Controls) == 0:
			continue
		case len(r.Controls) < len(all):
			r.Coverage, r.Note = Partial, strings.TrimSpace(r.Note+" Of "+title+" alone.")
		}
		part.Requirements = append(part.Requirements, r)
	}
	return &part
}
