package threatmodel

import "strings"

// boundaries draws the zones, first from afar, then each that has zones within.
func (p *page) boundaries() {
	p.line("")
	p.line("## Trust boundaries")
	p.line("")
	p.line("Every box is a zone of trust: whoever has something in it has what else is in it, and nothing else. Arrows begin where a connection is begun.")
	p.line("")
	p.line("| zone | trust | what it is |")
	p.line("|---|---|---|")
	for _, z := range p.m.Zones {
		p.line("| %s | %d | %s |", cell(p.zone(z.ID)), z.Trust, cell(z.Text))
	}
	p.line("")
	p.line("Between zones:")
	p.line("")
	p.afar()
	for _, z := range p.m.Zones {
		if z.Parent == "" && p.hasChildren(z.ID) {
			p.line("")
			p.line("Within %s:", z.Name)
			p.line("")
			p.within(z)
		}
	}
	p.line("")
	p.line("| flow | from → to | what protects it |")
	p.line("|---|---|---|")
	for _, f := range p.m.Flows {
		p.line("| %s %s | %s → %s | %s |", f.ID, cell(f.Name), cell(p.component(f.From)), cell(p.component(f.To)), cell(f.Text))
	}
	p.line("")
	p.line("| component | zone | what it is |")
	p.line("|---|---|---|")
	for _, c := range p.m.Components {
		p.line("| %s | %s | %s |", cell(c.Name), cell(p.zone(c.Zone)), cell(c.Text))
	}
}

// zone is its name below that of its parent.
func (p *page) zone(id string) string {
	for _, z := range p.m.Zones {
		if z.ID == id && z.Parent != "" {
			return p.zone(z.Parent) + " / " + z.Name
		} else if z.ID == id {
			return z.Name
		}
	}
	return id
}

func (p *page) hasChildren(id string) bool {
	for _, z := range p.m.Zones {
		if z.Parent == id {
			return true
		}
	}
	return false
}

// top is the outermost zone that a component is in.
func (p *page) top(component string) string {
	id := p.zoneOf(component)
	for _, z := range p.m.Zones {
		if z.ID == id && z.Parent != "" {
			return z.Parent
		}
	}
	return id
}

func (p *page) zoneOf(component string) string {
	for _, c := range p.m.Components {
		if c.ID == component {
			return c.Zone
		}
	}
	return ""
}

// afar draws each outermost zone as one box, with the flows that leave one.
func (p *page) afar() {
	p.line("```mermaid")
	p.line("flowchart LR")
	for _, z := range p.m.Zones {
		if z.Parent == "" {
			p.line("  %s[%s]", node(z.ID), quote(z.Name))
		}
	}
	for _, f := range p.m.Flows {
		if from, to := p.top(f.From), p.top(f.To); from != to {
			p.line("  %s -->|%s| %s", node(from), quote(f.ID+" "+f.Name), node(to))
		}
	}
	p.line("```")
}

// within draws what is in one zone and the zones in it.
func (p *page) within(outer Zone) {
	p.line("```mermaid")
	p.line("flowchart LR")
	for _, z := range p.m.Zones {
		if z.ID != outer.ID && z.Parent != outer.ID {
			continue
		}
		p.line("  subgraph %s[%s]", node(z.ID), quote(z.Name))
		for _, c := range p.m.Components {
			if c.Zone == z.ID {
				p.line("    %s[%s]", node(c.ID), quote(c.Name))
			}
		}
		p.line("  end")
	}
	for _, f := range p.m.Flows {
		if p.top(f.From) == outer.ID && p.top(f.To) == outer.ID {
			p.line("  %s -->|%s| %s", node(f.From), quote(f.ID+" "+f.Name), node(f.To))
		}
	}
	p.line("```")
}

// node is an id as mermaid takes it: "end" by itself would be a keyword.
func node(id string) string { return "n_" + strings.ReplaceAll(id, "-", "_") }

func quote(s string) string {
	return `"` + strings.NewReplacer(`"`, "'", "\n", " ").Replace(s) + `"`
}
