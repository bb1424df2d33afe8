package lock

import "fmt"

// Rule names why the lock refuses.
type Rule string

// The rules, by what they ask for.
const (
	RuleChain     Rule = "chain"     // a chain that goes on from the node's own
	RuleSigned    Rule = "signed"    // a signature at all
	RuleSignature Rule = "signature" // by a key of the chain's head, over these bytes
	RuleCluster   Rule = "cluster"   // for this cluster
	RuleService   Rule = "service"   // for the service of this name, with these labels
	RuleSpec      Rule = "spec"      // of what the task is
	RuleReplicas  Rule = "replicas"  // of so many tasks
	RuleVersion   Rule = "version"   // none older than what ran here already
	RuleRetired   Rule = "retired"   // not voided by a link
	RuleExpired   Rule = "expired"   // not over, nor from the future
	RuleConfig    Rule = "config"    // of these contents of configs, and names of secrets
	RuleState     Rule = "state"     // that the node can write down what it trusts
)

// Refusal is what the lock says no to.
type Refusal struct {
	Rule Rule
	text string
}

func (r *Refusal) Error() string { return "deployment lock, rule " + string(r.Rule) + ": " + r.text }

func refuse(rule Rule, format string, args ...any) error {
	return &Refusal{rule, fmt.Sprintf(format, args...)}
}

var (
	// ErrUnsigned is of a service that nobody signed.
	ErrUnsigned error = &Refusal{RuleSigned, "the service is not signed: a deployer signs it (redoubt service update --sign-with KEY)"}
	// ErrOlder is of one that was signed before what is there.
	ErrOlder error = &Refusal{RuleVersion, "what is stored was signed later than this"}
)
