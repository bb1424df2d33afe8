package threatmodel

// Model is threats.yaml. Ids are unique within their list, and references are
// ids of the list that the field names.
type Model struct {
	Version     int          `yaml:"version"`
	Zones       []Zone       `yaml:"zones"`
	Components  []Component  `yaml:"components"`
	Flows       []Flow       `yaml:"flows"`
	Assets      []Asset      `yaml:"assets"`
	Owners      []Owner      `yaml:"owners"`
	Mitigations []Mitigation `yaml:"mitigations"`
	Threats     []Threat     `yaml:"threats"`
	NonGoals    []NonGoal    `yaml:"non_goals"`

	lines map[string]int // of each entry, by list and index; filled by Parse
}

// Zone is a place within which one failure gives an attacker everything.
type Zone struct {
	ID     string `yaml:"id"`
	Name   string `yaml:"name"`
	Parent string `yaml:"parent"` // a zone, or none
	Trust  int    `yaml:"trust"`  // 0, nobody's, to 100
	Text   string `yaml:"text"`
}

// Component is a process, a person's tool or a disk.
type Component struct {
	ID   string `yaml:"id"`
	Name string `yaml:"name"`
	Zone string `yaml:"zone"`
	Text string `yaml:"text"`
}

// Flow is what one component says to another. The one that begins it is From.
type Flow struct {
	ID   string `yaml:"id"`
	Name string `yaml:"name"`
	From string `yaml:"from"`
	To   string `yaml:"to"`
	Text string `yaml:"text"` // how it is protected
}

// Asset is what an attacker wants. The numbers say from 0 to 100 how much it
// costs to lose each property.
type Asset struct {
	ID              string `yaml:"id"`
	Name            string `yaml:"name"`
	Confidentiality int    `yaml:"confidentiality"`
	Integrity       int    `yaml:"integrity"`
	Availability    int    `yaml:"availability"`
	Text            string `yaml:"text"`
}

// Owner is who answers for residual risks: the maintainers of one room.
type Owner struct {
	ID   string `yaml:"id"`
	Text string `yaml:"text"`
}

// Mitigation is one thing that stands against threats, and what shows that it
// does.
type Mitigation struct {
	ID     string `yaml:"id"`
	Title  string `yaml:"title"`
	Effect string `yaml:"effect"` // a key of Effects
	// Tests are names of tests by package, as in `pki/port: [TestHandshakePolicy]`.
	Tests map[string][]string `yaml:"tests"`
	// Controls are ids of live checks that are registered.
	Controls []string `yaml:"controls"`
}

// Threat is what one kind of attacker wants to do to one asset.
type Threat struct {
	ID          string   `yaml:"id"`
	Title       string   `yaml:"title"`
	STRIDE      []string `yaml:"stride"`
	Actor       string   `yaml:"actor"`
	Asset       string   `yaml:"asset"`
	Component   string   `yaml:"component"` // where it happens
	ATTACK      []string `yaml:"attack"`    // techniques; empty only with ATTACKNone
	ATTACKNone  string   `yaml:"attack_none"`
	Tenets      []int    `yaml:"tenets"` // of NIST SP 800-207, 2.1
	Likelihood  string   `yaml:"likelihood"`
	Impact      string   `yaml:"impact"`
	Text        string   `yaml:"text"`
	Mitigations []string `yaml:"mitigations"`
	Residual    Residual `yaml:"residual"`
}

// Residual is what stays although all mitigations work.
type Residual struct {
	Risk   string `yaml:"risk"` // a key of Levels
	Text   string `yaml:"text"`
	Owner  string `yaml:"owner"`
	Review string `yaml:"review"` // the last day on which this may stand unread, YYYY-MM-DD
}

// NonGoal is what is not promised.
type NonGoal struct {
	ID   string `yaml:"id"`
	Text string `yaml:"text"`
}
