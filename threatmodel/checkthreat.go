package threatmodel

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

func (c *checker) mitigations(controls []string) {
	for i, m := range c.m.Mitigations {
		say := c.sayer("mitigations", i, m.ID)
		texts(say, "title", m.Title)
		if _, ok := Effects[m.Effect]; !ok {
			say("effect %q: give one of %s", m.Effect, keys(Effects))
		}
		if len(m.Tests) == 0 && len(m.Controls) == 0 {
			say("nothing shows it: name a test or a control")
		}
		for pkg, names := range m.Tests {
			if len(names) == 0 {
				say("no test of %s is named", pkg)
			}
			twice(say, "test", names)
		}
		twice(say, "control", m.Controls)
		for _, id := range m.Controls {
			if !slices.Contains(controls, id) {
				say("control %q is not registered", id)
			}
			c.used["controls "+id] = true
		}
	}
}

func (c *checker) threat(i int, components, assets, owners, mitigations map[string]int) {
	t := c.m.Threats[i]
	say := c.sayer("threats", i, t.ID)
	texts(say, "title", t.Title, "text", t.Text, "residual.text", t.Residual.Text)
	if _, ok := find(Actors, t.Actor); !ok {
		say("actor %q is none of the list", t.Actor)
	}
	c.used["actors "+t.Actor] = true
	c.refer(say, "assets", "asset", t.Asset, assets)
	c.refer(say, "components", "component", t.Component, components)
	c.refer(say, "owners", "residual.owner", t.Residual.Owner, owners)
	if len(t.Mitigations) == 0 {
		say("orphaned: it has no mitigation")
	}
	for _, id := range t.Mitigations {
		c.refer(say, "mitigations", "mitigation", id, mitigations)
	}
	if len(t.STRIDE) == 0 {
		say("stride is missing")
	}
	for _, s := range t.STRIDE {
		if _, ok := find(STRIDE, s); !ok {
			say("stride %q is none of the list", s)
		}
	}
	for _, id := range t.ATTACK {
		if _, ok := find(Techniques, id); !ok {
			say("attack %q is no technique of the list", id)
		}
	}
	if (len(t.ATTACK) == 0) == (t.ATTACKNone == "") {
		say("give attack, or attack_none with the reason")
	}
	if len(t.Tenets) == 0 {
		say("tenets is missing")
	}
	for j, n := range t.Tenets {
		if n < 1 || n > len(Tenets) {
			say("tenet %d: there are 1 to %d", n, len(Tenets))
		}
		if slices.Contains(t.Tenets[:j], n) {
			say("tenet %d is named twice", n)
		}
	}
	twice(say, "stride", t.STRIDE)
	twice(say, "attack", t.ATTACK)
	twice(say, "mitigation", t.Mitigations)
	for key, level := range map[string]string{"likelihood": t.Likelihood, "impact": t.Impact, "residual.risk": t.Residual.Risk} {
		if _, ok := Levels[level]; !ok {
			say("%s %q: give one of %s", key, level, keys(Levels))
		}
	}
	c.review(say, t.Residual.Review)
}

// review is due on the day after the one that is named.
func (c *checker) review(say say, day string) {
	at, err := time.Parse(time.DateOnly, day)
	switch {
	case err != nil:
		say("residual.review %q is no day: write YYYY-MM-DD", day)
	case !c.now.Before(at.AddDate(0, 0, 1)):
		say("the review of its residual risk was due on %s: read it again, then name the next day", day)
	}
}

func (c *checker) refer(say say, list, key, id string, at map[string]int) {
	if _, ok := at[id]; !ok {
		say("%s %q is not listed", key, id)
	}
	c.used[list+" "+id] = true
}

// orphans are what nothing refers to.
func (c *checker) orphans(components, assets, owners, mitigations map[string]int, controls []string) {
	for list, at := range map[string]map[string]int{"components": components, "assets": assets, "owners": owners, "mitigations": mitigations} {
		for id, i := range at {
			if !c.used[list+" "+id] {
				c.sayer(list, i, id)("orphaned: nothing refers to it")
			}
		}
	}
	for _, a := range Actors {
		if !c.used["actors "+a.ID] {
			c.found = append(c.found, Finding{c.m.lines["threats"], a.ID, "no threat comes from this actor"})
		}
	}
	for _, id := range controls {
		if !c.used["controls "+id] {
			c.found = append(c.found, Finding{c.m.lines["mitigations"], id, "orphaned: no mitigation is bound to this control"})
		}
	}
}

func twice(say say, what string, names []string) {
	for i, n := range names {
		if slices.Contains(names[:i], n) {
			say("%s %s is named twice", what, n)
		}
	}
}

func keys(m map[string]int) string {
	var all []string
	for k, n := range m {
		all = append(all, fmt.Sprintf("%03d%s", n, k))
	}
	slices.Sort(all)
	for i := range all {
		all[i] = all[i][3:]
	}
	return strings.Join(all, ", ")
}
