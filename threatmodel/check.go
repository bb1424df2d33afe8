package threatmodel

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// Finding is something that is wrong with the model, in one line.
type Finding struct {
	Line int    // of threats.yaml; 0 where it is of no one line
	ID   string // of the entry, or its list
	What string
}

func (f Finding) String() string { return fmt.Sprintf("threats.yaml:%d: %s: %s", f.Line, f.ID, f.What) }

// checker gathers findings.
type checker struct {
	m     *Model
	now   time.Time
	found []Finding
	used  map[string]bool // "list id" of all that something refers to
}

// Check finds what does not fit together, on the day now, when controls are the
// ids of the live checks that exist.
func (m *Model) Check(now time.Time, controls []string) []Finding {
	c := &checker{m: m, now: now, used: map[string]bool{}}
	zones := ids(c, "zones", m.Zones, func(z Zone) string { return z.ID }, word)
	components := ids(c, "components", m.Components, func(x Component) string { return x.ID }, word)
	assets := ids(c, "assets", m.Assets, func(a Asset) string { return a.ID }, word)
	owners := ids(c, "owners", m.Owners, func(o Owner) string { return o.ID }, word)
	mitigations := ids(c, "mitigations", m.Mitigations, func(x Mitigation) string { return x.ID }, numbered("M"))
	ids(c, "flows", m.Flows, func(f Flow) string { return f.ID }, numbered("F"))
	ids(c, "threats", m.Threats, func(t Threat) string { return t.ID }, numbered("T"))
	ids(c, "non_goals", m.NonGoals, func(n NonGoal) string { return n.ID }, numbered("N"))

	c.places(zones, components)
	for i, a := range m.Assets {
		say := c.sayer("assets", i, a.ID)
		texts(say, "name", a.Name, "text", a.Text)
		for name, n := range map[string]int{"confidentiality": a.Confidentiality, "integrity": a.Integrity, "availability": a.Availability} {
			if n < 0 || n > 100 {
				say("%s is %d: give 0 to 100", name, n)
			}
		}
	}
	for i, o := range m.Owners {
		texts(c.sayer("owners", i, o.ID), "text", o.Text)
	}
	for i, n := range m.NonGoals {
		texts(c.sayer("non_goals", i, n.ID), "text", n.Text)
	}
	c.mitigations(controls)
	for i := range m.Threats {
		c.threat(i, components, assets, owners, mitigations)
	}
	c.orphans(components, assets, owners, mitigations, controls)
	slices.SortStableFunc(c.found, func(a, b Finding) int { return cmp.Compare(a.Line, b.Line) })
	return c.found
}

type say func(format string, args ...any)

// sayer says what is wrong with entry i of a list.
func (c *checker) sayer(list string, i int, id string) say {
	line := c.m.lines[fmt.Sprintf("%s[%d]", list, i)]
	if id == "" {
		id = fmt.Sprintf("%s[%d]", list, i)
	}
	return func(format string, args ...any) {
		c.found = append(c.found, Finding{line, id, fmt.Sprintf(format, args...)})
	}
}

var word = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)

func numbered(letter string) *regexp.Regexp { return regexp.MustCompile(`^` + letter + `-[0-9]{3}$`) }

// ids gives the indices of a list's entries by id, each of which is there once
// and spelt as its list spells them.
func ids[E any](c *checker, list string, entries []E, id func(E) string, form *regexp.Regexp) map[string]int {
	at := map[string]int{}
	if len(entries) == 0 {
		c.found = append(c.found, Finding{c.m.lines[list], list, "empty"})
	}
	if len(entries) > maxItems {
		c.found = append(c.found, Finding{c.m.lines[list], list, fmt.Sprintf("%d entries: at most %d", len(entries), maxItems)})
	}
	for i, e := range entries {
		name := id(e)
		say := c.sayer(list, i, name)
		if !form.MatchString(name) {
			say("the id has another form than %s", form)
		}
		if first, twice := at[name]; twice {
			say("the id is that of line %d, too", c.m.lines[fmt.Sprintf("%s[%d]", list, first)])
			continue
		}
		at[name] = i
	}
	return at
}

// texts are pairs of a key and what stands there.
func texts(say say, pairs ...string) {
	for i := 0; i+1 < len(pairs); i += 2 {
		switch n := len(pairs[i+1]); {
		case n == 0:
			say("%s is missing", pairs[i])
		case n > maxText:
			say("%s has %d bytes: at most %d", pairs[i], n, maxText)
		}
	}
}

// places are zones, what is in them, and what goes between.
func (c *checker) places(zones, components map[string]int) {
	m := c.m
	for i, z := range m.Zones {
		say := c.sayer("zones", i, z.ID)
		texts(say, "name", z.Name, "text", z.Text)
		if z.Trust < 0 || z.Trust > 100 {
			say("trust is %d: give 0 to 100", z.Trust)
		}
		if z.Parent == "" {
			continue
		}
		// One level below is all that the diagrams draw.
		if p, ok := zones[z.Parent]; !ok {
			say("parent %q is no zone", z.Parent)
		} else if m.Zones[p].Parent != "" {
			say("parent %q has a parent itself", z.Parent)
		} else {
			c.used["zones "+z.Parent] = true
		}
	}
	for i, x := range m.Components {
		say := c.sayer("components", i, x.ID)
		texts(say, "name", x.Name, "text", x.Text)
		if _, ok := zones[x.Zone]; !ok {
			say("zone %q is not listed", x.Zone)
		}
		c.used["zones "+x.Zone] = true
	}
	for i, f := range m.Flows {
		say := c.sayer("flows", i, f.ID)
		texts(say, "name", f.Name, "text", f.Text)
		for _, end := range []string{f.From, f.To} {
			if _, ok := components[end]; !ok {
				say("%q is no component", end)
			}
			c.used["components "+end] = true
		}
	}
	for i, z := range m.Zones {
		if !c.used["zones "+z.ID] {
			c.sayer("zones", i, z.ID)("nothing is in it")
		}
	}
}
