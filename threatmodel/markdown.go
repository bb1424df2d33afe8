package threatmodel

import (
	"fmt"
	"slices"
	"strings"
)

// Markdown is the model for people, as docs/threat-model.md has it.
func (m *Model) Markdown(tests Tests) []byte {
	p := &page{m: m, tests: tests}
	p.line("# Threat model")
	p.line("")
	p.line("Made from `threatmodel/threats.yaml` by `make generate-threatmodel`: change that, not this. [How it works](../threatmodel/README.md).")
	p.line("")
	p.line("Who attacks, what stops them, which test shows it, and what is left. What is promised holds for what exists today; see [what is not promised](#not-promised).")
	p.summary()
	p.boundaries()
	p.assets()
	p.threats()
	p.residuals()
	p.line("")
	p.line("## Not promised")
	p.line("")
	for _, n := range m.NonGoals {
		p.line("- **%s** %s", n.ID, n.Text)
	}
	return []byte(p.b.String())
}

type page struct {
	m     *Model
	tests Tests
	b     strings.Builder
}

func (p *page) line(format string, args ...any) {
	if len(args) == 0 {
		p.b.WriteString(format)
	} else {
		fmt.Fprintf(&p.b, format, args...)
	}
	p.b.WriteByte('\n')
}

// cell keeps a text from ending its cell.
func cell(s string) string { return strings.NewReplacer("|", `\|`, "\n", " ").Replace(s) }

func names(list []Named, ids []string) string {
	var out []string
	for _, id := range ids {
		n, _ := find(list, id)
		out = append(out, n.Name)
	}
	return strings.Join(out, ", ")
}

func (p *page) summary() {
	p.line("")
	p.line("## Threats by actor")
	p.line("")
	head, rule := "| actor | who that is |", "|---|---|"
	for _, s := range STRIDE {
		head, rule = head+" "+strings.ToLower(s.Name)+" |", rule+"---|"
	}
	p.line("%s all |", head)
	p.line("%s---|", rule)
	for _, a := range Actors {
		row := fmt.Sprintf("| %s | %s |", a.Name, a.Text)
		all := 0
		for _, s := range STRIDE {
			n := 0
			for _, t := range p.m.Threats {
				if t.Actor == a.ID && slices.Contains(t.STRIDE, s.ID) {
					n++
				}
			}
			row += fmt.Sprintf(" %s |", count(n))
		}
		for _, t := range p.m.Threats {
			if t.Actor == a.ID {
				all++
			}
		}
		p.line("%s %d |", row, all)
	}
	named := map[Test]bool{}
	p.m.each(func(_ int, _ string, t Test) { named[t] = true })
	p.line("")
	p.line("%d threats, %d mitigations, %d tests. %s", len(p.m.Threats), len(p.m.Mitigations), len(named), p.controls())
}

func count(n int) string {
	if n == 0 {
		return "–"
	}
	return fmt.Sprint(n)
}

// controls says plainly where there is none.
func (p *page) controls() string {
	n := p.m.Count(p.tests).Controls
	if n == 0 {
		return "No mitigation is bound to a live check of a running cluster yet: what is shown here is shown by tests."
	}
	return fmt.Sprintf("%d live checks of running nodes and of the cluster (`redoubt compliance run`).", n)
}

func (p *page) assets() {
	p.line("")
	p.line("## What is worth attacking")
	p.line("")
	p.line("Numbers say from 0 to 100 what it costs to lose confidentiality, integrity, availability.")
	p.line("")
	p.line("| asset | C | I | A | what it is |")
	p.line("|---|---|---|---|---|")
	for _, a := range p.m.Assets {
		p.line("| %s | %d | %d | %d | %s |", cell(a.Name), a.Confidentiality, a.Integrity, a.Availability, cell(a.Text))
	}
}

func (p *page) threats() {
	for _, a := range Actors {
		p.line("")
		p.line("## %s", a.Name)
		for _, t := range p.m.Threats {
			if t.Actor == a.ID {
				p.threat(t)
			}
		}
	}
}

func (p *page) threat(t Threat) {
	p.line("")
	p.line("### %s %s", t.ID, t.Title)
	p.line("")
	p.line("%s", t.Text)
	p.line("")
	attack := t.ATTACKNone
	if attack == "" {
		var all []string
		for _, id := range t.ATTACK {
			n, _ := find(Techniques, id)
			all = append(all, id+" "+n.Name)
		}
		attack = strings.Join(all, "; ")
	}
	var tenets []string
	for _, n := range t.Tenets {
		tenets = append(tenets, fmt.Sprint(n))
	}
	p.line("- **STRIDE** %s · **against** %s, at %s · **likelihood** %s, **impact** %s", strings.ToLower(names(STRIDE, t.STRIDE)),
		p.asset(t.Asset), p.component(t.Component), t.Likelihood, t.Impact)
	p.line("- **ATT&CK for Containers** %s · **NIST SP 800-207 tenets** %s", attack, strings.Join(tenets, ", "))
	p.line("")
	p.line("| mitigation | | shown by |")
	p.line("|---|---|---|")
	for _, id := range t.Mitigations {
		for _, x := range p.m.Mitigations {
			if x.ID == id {
				p.line("| %s %s | %s | %s |", x.ID, cell(x.Title), x.Effect, p.shown(x))
			}
		}
	}
	p.line("")
	p.line("**Left over** (%s): %s", t.Residual.Risk, t.Residual.Text)
}

// shown are the tests of a mitigation by package, those of others' tools marked.
func (p *page) shown(x Mitigation) string {
	var out []string
	last := ""
	for _, t := range x.tests() {
		text := "`" + t.Name + "`"
		if t.Package != last {
			text = t.Package + " " + text
		}
		last = t.Package
		if p.tests[t] == Interop {
			text += " (make test-interop)"
		}
		out = append(out, text)
	}
	for _, id := range x.Controls {
		out = append(out, "control `"+id+"`")
	}
	return strings.Join(out, ", ")
}

func (p *page) residuals() {
	p.line("")
	p.line("## Residual risks")
	p.line("")
	p.line("Who answers for what is left, and until when it must have been read again. A day that is past fails `make test`.")
	p.line("")
	p.line("| threat | risk | owner | review until |")
	p.line("|---|---|---|---|")
	for _, t := range p.m.Threats {
		p.line("| %s %s | %s | %s | %s |", t.ID, cell(t.Title), t.Residual.Risk, t.Residual.Owner, t.Residual.Review)
	}
	p.line("")
	for _, o := range p.m.Owners {
		p.line("- **%s**: %s", o.ID, o.Text)
	}
}

func (p *page) asset(id string) string {
	for _, a := range p.m.Assets {
		if a.ID == id {
			return a.Name
		}
	}
	return id
}

func (p *page) component(id string) string {
	for _, c := range p.m.Components {
		if c.ID == id {
			return c.Name
		}
	}
	return id
}
