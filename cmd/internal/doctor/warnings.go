package doctor

import "regexp"

// rule is what a warning of the cluster's own is about, and how much it hurts. The
// warnings are texts for people, and complete with their remedies; they begin alike.
type rule struct {
	begins *regexp.Regexp // its first group, if any, is the name
	rank   Rank
	kind   string // "node" or "service" and a name; otherwise the cluster
	said   bool   // by a judge of its own, in more detail
}

var rules = []rule{
	{begins: regexp.MustCompile(`^manager (\S+) is (locked|down)`), rank: Critical, kind: "node"},
	{begins: regexp.MustCompile(`^(the loss of one more manager|managers .* share )`), rank: Critical},
	{begins: regexp.MustCompile(`^the disk of the leading manager`), rank: Critical},
	{begins: regexp.MustCompile(`^the certificate of node (\S+) has expired`), rank: Critical, kind: "node"},
	{begins: regexp.MustCompile(`^a certificate of .* that nobody gave out`), rank: Critical},
	{begins: regexp.MustCompile(`^manager \S+ was removed as compromised`), rank: Critical},
	{begins: regexp.MustCompile(`^the session of .* was replaced from another address`), rank: Critical},
	{begins: regexp.MustCompile(`^service (\S+) runs `), kind: "service", said: true},
	{begins: regexp.MustCompile(`^(?:worker|manager) (\S+) was away too long`), rank: Warning, kind: "node"},
	{begins: regexp.MustCompile(`^node (\S+) is (?:not ready|down)`), rank: Warning, kind: "node"},
	{begins: regexp.MustCompile(`^manager (\S+) has no vote yet`), rank: Note, kind: "node"},
	{begins: regexp.MustCompile(`^manager (\S+) still opens with`), rank: Warning, kind: "node"},
	{begins: regexp.MustCompile(`^the clock of (?:node|manager) (\S+) is`), rank: Warning, kind: "node"},
	{begins: regexp.MustCompile(`^one manager only`), rank: Note},
	{begins: regexp.MustCompile(`^\d+ managers vote and bear no more`), rank: Note},
}

// ruleOf is the rule of a warning; of those that have none: a warning about the cluster.
func ruleOf(text string) (r rule, name string) {
	for _, r := range rules {
		if m := r.begins.FindStringSubmatch(text); m != nil {
			if r.kind != "" {
				name = m[1]
			}
			return r, name
		}
	}
	return rule{rank: Warning}, ""
}
