package report

import (
	"io"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/version"
	"github.com/redoubt-cluster/redoubt/threatmodel/control"
	"github.com/redoubt-cluster/redoubt/threatmodel/profile"
)

// The parts of OSCAL 1.2.2 component-definition that are written.
type (
	oscalImplementation struct {
		UUID         string             `json:"uuid"`
		Source       string             `json:"source"`
		Description  string             `json:"description"`
		Requirements []oscalImplemented `json:"implemented-requirements"`
	}
	oscalImplemented struct {
		UUID        string      `json:"uuid"`
		Control     string      `json:"control-id"`
		Description string      `json:"description"`
		Props       []oscalProp `json:"props"`
		Remarks     string      `json:"remarks,omitempty"`
	}
)

// Components writes, as an OSCAL 1.2.2 component-definition, which requirements of a
// profile Redoubt has controls for, and which. What no control judges is not claimed.
// The time is when it is written.
func Components(w io.Writer, p *profile.Profile, controls []control.Control, now time.Time) error {
	ids := &Report{ID: newUUID()}
	source := ids.uuid("source")
	all := oscalImplementation{UUID: ids.uuid("implementation"), Source: "#" + source, Description: markdown(value(text(p.Title)))}
	for _, q := range p.Requirements {
		if q.Coverage != profile.Full && q.Coverage != profile.Partial {
			continue
		}
		one := oscalImplemented{UUID: ids.uuid("requirement", q.ID), Control: token(q.ID), Description: markdown(value(text(q.Title))), Remarks: markdown(text(q.Note)),
			Props: []oscalProp{prop("requirement", q.ID), prop("coverage", string(q.Coverage))}}
		for _, c := range q.Controls {
			one.Props = append(one.Props, prop("control", c))
			if i := slices.IndexFunc(controls, func(k control.Control) bool { return k.ID == c }); i >= 0 {
				one.Description += markdown("\n\n" + c + ": " + controls[i].Title + ". Judged by: " + controls[i].Reads + ".")
			}
		}
		all.Requirements = append(all.Requirements, one)
	}
	component := map[string]any{"uuid": ids.uuid("component"), "type": "software", "title": "Redoubt", "description": markdown("Redoubt " + version.String() + ", a container cluster.")}
	if len(all.Requirements) > 0 { // OSCAL has no empty lists
		component["control-implementations"] = []oscalImplementation{all}
	}
	s := newStream(w)
	s.object("")
	s.object("component-definition")
	s.value("uuid", ids.ID)
	s.object("metadata")
	s.value("title", markdown(value(text(p.Title))))
	s.value("last-modified", now.UTC().Truncate(time.Second))
	s.value("version", "1")
	s.value("oscal-version", "1.2.2")
	s.end()
	s.value("components", []map[string]any{component})
	s.object("back-matter")
	s.value("resources", []map[string]string{{"uuid": source, "title": markdown(value(text(p.Title))), "description": markdown("The profile " + p.ID + ". " + text(p.Source))}})
	return s.close()
}
