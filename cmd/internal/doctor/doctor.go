// Package doctor says what is wrong with a node and its cluster, the worst first, and
// the commands that mend it.
//
// It judges what the node's own API answers and touches nothing: Gather asks, Diagnose
// judges. What may not be asked, or is not answered, is said and never taken for well.
package doctor

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Rank says how much a finding hurts. The worst is first.
type Rank int

const (
	// Critical: something does not work, or the next loss ends it.
	Critical Rank = iota
	// Warning: it works, and not as it was asked to or not for long.
	Warning
	// Note: somebody is waited for, or something is to be known.
	Note
)

var rankNames = [...]string{"critical", "warning", "note"}

func (r Rank) String() string { return rankNames[r] }

// MarshalText is the rank's name.
func (r Rank) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Finding is one thing that is wrong.
type Finding struct {
	Rank Rank `json:"rank"`
	// About is "this node", "cluster", "node NAME", "service NAME" or "you".
	About string `json:"about"`
	What  string `json:"what"`
	// Mend are commands that may help, each complete, in the order to try them.
	Mend []string `json:"mend"`
}

// Unseen is what could not be looked at.
type Unseen struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Diagnosis is all that was found.
type Diagnosis struct {
	Findings []Finding `json:"findings"`
	Unseen   []Unseen  `json:"unseen"`
}

// Ill is how many things are to be mended: notes are none.
func (d *Diagnosis) Ill() (n int) {
	for _, f := range d.Findings {
		if f.Rank < Note {
			n++
		}
	}
	return n
}

// Diagnose judges what was gathered.
func Diagnose(f *Facts) *Diagnosis {
	d := &Diagnosis{Findings: []Finding{}, Unseen: []Unseen{}}
	d.local(f)
	d.cluster(f)
	d.nodes(f)
	d.services(f)
	d.waits(f)
	d.Unseen = append(d.Unseen, f.Unseen...)
	slices.SortStableFunc(d.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Rank, b.Rank), cmp.Compare(place(a.About), place(b.About)))
	})
	return d
}

// place is the order in which things are mended: a cluster is none without its node.
func place(about string) int {
	switch kind, _, _ := strings.Cut(about, " "); kind {
	case "this":
		return 0
	case "cluster":
		return 1
	case "node":
		return 2
	}
	return 3
}

// found notes a finding. What stands in backquotes in its text and is a command is among
// what mends it, but for what gives something up: that is there with its condition alone.
func (d *Diagnosis) found(r Rank, about, what string, mend ...string) {
	for _, c := range commands(what) {
		if !slices.Contains(mend, c) && !givesUp(c) {
			mend = append(mend, c)
		}
	}
	if mend == nil {
		mend = []string{}
	}
	d.Findings = append(d.Findings, Finding{r, about, what, mend})
}

var quoted = regexp.MustCompile("`([^`]+)`")

// commands are those that a text tells to type.
func commands(text string) (out []string) {
	for _, m := range quoted.FindAllStringSubmatch(text, -1) {
		if strings.HasPrefix(m[1], "redoubt ") || strings.HasPrefix(m[1], "systemctl ") || m[1] == "timedatectl" {
			out = append(out, m[1])
		}
	}
	return out
}

func givesUp(command string) bool {
	return strings.HasPrefix(command, "redoubt node rm") || strings.HasPrefix(command, "redoubt leave") || strings.HasPrefix(command, "redoubt recover")
}

// some are the first of many, and how many more there are.
func some(names []string) string {
	const shown = 5
	if len(names) <= shown {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
}
