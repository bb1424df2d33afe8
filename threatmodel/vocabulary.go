package threatmodel

import "github.com/redoubt-cluster/redoubt/threatmodel/control"

// Actors are those whom the threats come from; each has at least one.
var Actors = []Named{
	{"network-attacker", "Network attacker", "reads, changes, holds back and makes packets anywhere between nodes; has no key"},
	{"quantum-recorder", "Quantum recorder", "records everything today and has a quantum computer one day"},
	{"malicious-container", "Malicious container", "code in a task, root within it"},
	{"stolen-worker", "Stolen worker", "root on a worker, with all its keys, while it is a member or after"},
	{"stolen-manager-disk", "Stolen manager disk", "the bytes of a manager's disk, once or often, perhaps with a credential of the day"},
	{"compromised-manager", "Compromised manager", "runs code as a manager's redoubtd, or has a manager's place and certificate"},
	{"compromised-insider", "Compromised admin or insider", "has credentials of the cluster, or an account on a node, and means harm"},
	{"rogue-joiner", "Rogue joiner", "has a join token, or wants to be admitted without one"},
	{"supply-chain", "Supply chain", "decides what is in an image, a plugin, a dependency or what a registry or an outside CA answers"},
	{"rollback-replay", "Rollback and replay", "brings back what was true once: a disk, a token, a packet, a clock"},
	{"clumsy-operator", "Clumsy operator", "means well, mistypes, and loses power in the midst of it"},
}

// STRIDE are the categories of threats.
var STRIDE = []Named{
	{"spoofing", "Spoofing", ""},
	{"tampering", "Tampering", ""},
	{"repudiation", "Repudiation", ""},
	{"information-disclosure", "Information disclosure", ""},
	{"denial-of-service", "Denial of service", ""},
	{"elevation-of-privilege", "Elevation of privilege", ""},
}

// Techniques are those of MITRE ATT&CK's matrix for containers that threats
// name. What the matrix does not know, as listening on a wire, has none of them,
// and says why.
var Techniques = []Named{
	{"T1036.005", "Masquerading: Match Legitimate Resource Name or Location", ""},
	{"T1046", "Network Service Discovery", ""},
	{"T1053.007", "Scheduled Task/Job: Container Orchestration Job", ""},
	{"T1068", "Exploitation for Privilege Escalation", ""},
	{"T1070", "Indicator Removal", ""},
	{"T1078", "Valid Accounts", ""},
	{"T1098", "Account Manipulation", ""},
	{"T1110", "Brute Force", ""},
	{"T1133", "External Remote Services", ""},
	{"T1190", "Exploit Public-Facing Application", ""},
	{"T1204.003", "User Execution: Malicious Image", ""},
	{"T1485", "Data Destruction", ""},
	{"T1490", "Inhibit System Recovery", ""},
	{"T1496", "Resource Hijacking", ""},
	{"T1498", "Network Denial of Service", ""},
	{"T1499", "Endpoint Denial of Service", ""},
	{"T1525", "Implant Internal Image", ""},
	{"T1528", "Steal Application Access Token", ""},
	{"T1543.005", "Create or Modify System Process: Container Service", ""},
	{"T1550.001", "Use Alternate Authentication Material: Application Access Token", ""},
	{"T1552.001", "Unsecured Credentials: Credentials In Files", ""},
	{"T1552.007", "Unsecured Credentials: Container API", ""},
	{"T1562.001", "Impair Defenses: Disable or Modify Tools", ""},
	{"T1609", "Container Administration Command", ""},
	{"T1610", "Deploy Container", ""},
	{"T1611", "Escape to Host", ""},
	{"T1613", "Container and Resource Discovery", ""},
}

// Tenets are those of zero trust by NIST SP 800-207, section 2.1, in its order.
var Tenets = []string{
	"All data sources and computing services are considered resources",
	"All communication is secured regardless of network location",
	"Access to individual resources is granted on a per-session basis",
	"Access to resources is determined by dynamic policy",
	"The integrity and security posture of all assets is monitored and measured",
	"Authentication and authorization are dynamic and strictly enforced before access",
	"As much as possible is collected on the state of assets and used to improve security",
}

// Levels are how likely, bad or left over something is, as numbers of 100.
var Levels = map[string]int{"low": 25, "medium": 50, "high": 75, "critical": 100}

// Effects are what a mitigation does to a threat, as the part of 100 that it
// takes away.
var Effects = map[string]int{"prevents": 90, "limits": 50, "detects": 30}

// Named is an id of a closed list with its name and what it means.
type Named struct{ ID, Name, Text string }

func find(list []Named, id string) (Named, bool) {
	for _, n := range list {
		if n.ID == id {
			return n, true
		}
	}
	return Named{}, false
}

// Controls are the ids of the live checks that are registered.
func Controls() []string {
	var ids []string
	for _, c := range control.All() {
		ids = append(ids, c.ID)
	}
	return ids
}
