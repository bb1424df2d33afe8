package threatmodel

import (
	"bytes"
	"encoding/json"
)

// The parts of Open Threat Model 0.2.0 that are written; schema/ has all of it.
type (
	otm struct {
		Version     string          `json:"otmVersion"`
		Project     otmProject      `json:"project"`
		Assets      []otmAsset      `json:"assets"`
		Zones       []otmZone       `json:"trustZones"`
		Components  []otmComponent  `json:"components"`
		Flows       []otmFlow       `json:"dataflows"`
		Threats     []otmThreat     `json:"threats"`
		Mitigations []otmMitigation `json:"mitigations"`
	}
	otmProject struct {
		Name        string `json:"name"`
		ID          string `json:"id"`
		Description string `json:"description"`
		Attributes  any    `json:"attributes"`
	}
	otmAsset struct {
		ID          string `json:"id"`
		Name        string `json:"name"`
		Description string `json:"description"`
		Risk        struct {
			Confidentiality int `json:"confidentiality"`
			Integrity       int `json:"integrity"`
			Availability    int `json:"availability"`
		} `json:"risk"`
	}
	otmZone struct {
		ID          string `json:"id"`
		Name        string `json:"name"`
		Description string `json:"description"`
		Risk        struct {
			Trust int `json:"trustRating"`
		} `json:"risk"`
		Parent *otmParent `json:"parent,omitempty"`
	}
	otmParent struct {
		Zone string `json:"trustZone"`
	}
	otmComponent struct {
		ID          string        `json:"id"`
		Name        string        `json:"name"`
		Type        string        `json:"type"`
		Description string        `json:"description"`
		Parent      otmParent     `json:"parent"`
		Threats     []otmInstance `json:"threats,omitempty"`
	}
	otmInstance struct {
		Threat      string         `json:"threat"`
		State       string         `json:"state"`
		Mitigations []otmMitigated `json:"mitigations"`
	}
	otmMitigated struct {
		Mitigation string `json:"mitigation"`
		State      string `json:"state"`
	}
	otmFlow struct {
		ID            string `json:"id"`
		Name          string `json:"name"`
		Description   string `json:"description"`
		Bidirectional bool   `json:"bidirectional"`
		Source        string `json:"source"`
		Destination   string `json:"destination"`
	}
	otmThreat struct {
		ID          string   `json:"id"`
		Name        string   `json:"name"`
		Description string   `json:"description"`
		Categories  []string `json:"categories"`
		Risk        struct {
			Likelihood int `json:"likelihood"`
			Impact     int `json:"impact"`
		} `json:"risk"`
		Tags       []string          `json:"tags"`
		Attributes map[string]string `json:"attributes"`
	}
	otmMitigation struct {
		ID         string              `json:"id"`
		Name       string              `json:"name"`
		Reduction  int                 `json:"riskReduction"`
		Attributes map[string][]string `json:"attributes"`
	}
)

// OTM is the model as Open Threat Model 0.2.0, as docs/threat-model.otm.json has
// it. Likelihood, impact and effect are words in threats.yaml; their numbers are
// those of Levels and Effects.
func (m *Model) OTM() ([]byte, error) {
	out := otm{Version: "0.2.0", Project: otmProject{Name: "Redoubt", ID: "redoubt", Description: "A container cluster that assumes hostile networks, neighbours and machines."}}
	goals := map[string]string{}
	for _, n := range m.NonGoals {
		goals[n.ID] = n.Text
	}
	out.Project.Attributes = map[string]any{"notPromised": goals}
	for _, a := range m.Assets {
		x := otmAsset{ID: a.ID, Name: a.Name, Description: a.Text}
		x.Risk.Confidentiality, x.Risk.Integrity, x.Risk.Availability = a.Confidentiality, a.Integrity, a.Availability
		out.Assets = append(out.Assets, x)
	}
	for _, z := range m.Zones {
		x := otmZone{ID: z.ID, Name: z.Name, Description: z.Text}
		x.Risk.Trust = z.Trust
		if z.Parent != "" {
			x.Parent = &otmParent{z.Parent}
		}
		out.Zones = append(out.Zones, x)
	}
	for _, c := range m.Components {
		out.Components = append(out.Components, otmComponent{ID: c.ID, Name: c.Name, Type: "component", Description: c.Text,
			Parent: otmParent{c.Zone}, Threats: m.instances(c.ID)})
	}
	out.Flows = []otmFlow{}
	for _, f := range m.Flows {
		out.Flows = append(out.Flows, otmFlow{ID: f.ID, Name: f.Name, Description: f.Text, Bidirectional: true, Source: f.From, Destination: f.To})
	}
	for _, t := range m.Threats {
		out.Threats = append(out.Threats, t.otm())
	}
	for _, x := range m.Mitigations {
		y := otmMitigation{ID: x.ID, Name: x.Title, Reduction: Effects[x.Effect], Attributes: map[string][]string{"controls": append([]string{}, x.Controls...), "tests": {}}}
		for _, t := range x.tests() {
			y.Attributes["tests"] = append(y.Attributes["tests"], t.String())
		}
		out.Mitigations = append(out.Mitigations, y)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(out)
	return b.Bytes(), err
}

// instances are the threats at a component.
func (m *Model) instances(component string) []otmInstance {
	var all []otmInstance
	for _, t := range m.Threats {
		if t.Component != component {
			continue
		}
		x := otmInstance{Threat: t.ID, State: "mitigated", Mitigations: []otmMitigated{}}
		for _, id := range t.Mitigations {
			x.Mitigations = append(x.Mitigations, otmMitigated{id, "implemented"})
		}
		all = append(all, x)
	}
	return all
}

func (t Threat) otm() otmThreat {
	x := otmThreat{ID: t.ID, Name: t.Title, Description: t.Text, Tags: append([]string{}, t.ATTACK...)}
	for _, id := range t.STRIDE {
		n, _ := find(STRIDE, id)
		x.Categories = append(x.Categories, n.Name)
	}
	for _, n := range t.Tenets {
		if n >= 1 && n <= len(Tenets) {
			x.Tags = append(x.Tags, "NIST SP 800-207 tenet "+string(rune('0'+n)))
		}
	}
	x.Risk.Likelihood, x.Risk.Impact = Levels[t.Likelihood], Levels[t.Impact]
	x.Attributes = map[string]string{
		"actor": t.Actor, "asset": t.Asset, "residualRisk": t.Residual.Risk, "residual": t.Residual.Text,
		"owner": t.Residual.Owner, "reviewUntil": t.Residual.Review,
	}
	return x
}
