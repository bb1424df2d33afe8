package roles

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"

	// The verbs are those of the operator API.
	_ "github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/authz"
)

// vocabulary is what policies may speak of, made once of what the .protos declare.
type vocabulary struct {
	verbs   []string // sorted
	kinds   map[string][]string
	valid   *validate.Validator
	actions cedar.EntityMap // each verb in the group of its noun
	// approvable are those that several people can be asked for.
	approvable map[string]bool
}

var words = sync.OnceValues(makeVocabulary)

func makeVocabulary() (*vocabulary, error) {
	kinds := authz.Verbs()
	v := &vocabulary{kinds: kinds, verbs: slices.Sorted(maps.Keys(kinds)), actions: cedar.EntityMap{}, approvable: authz.Approvable()}
	var b strings.Builder
	b.WriteString("namespace Redoubt {\n  entity Role, Cluster;\n  entity Stack in [Cluster];\n  entity LocalRoot, LocalUser, Person in [Role];\n")
	for _, k := range authz.Kinds {
		fmt.Fprintf(&b, "  entity %s in [Cluster, Stack] { name: String } tags String;\n", k)
	}
	nouns := map[string]bool{}
	for _, verb := range v.verbs {
		noun, _, _ := strings.Cut(verb, ".")
		if !nouns[noun] {
			nouns[noun] = true
			fmt.Fprintf(&b, "  action %q;\n", noun)
		}
		var on []string
		for _, k := range kinds[verb] {
			if k == "" {
				k = "Cluster"
			}
			on = append(on, k)
		}
		fmt.Fprintf(&b, "  action %q in [%q] appliesTo { principal: [LocalRoot, LocalUser, Person], resource: [%s] };\n", verb, noun, strings.Join(on, ", "))
		uid := actionUID(verb)
		v.actions[uid] = cedar.Entity{UID: uid, Parents: cedar.NewEntityUIDSet(actionUID(noun))}
	}
	b.WriteString("}\n")
	var s schema.Schema
	if err := s.UnmarshalCedar([]byte(b.String())); err != nil {
		return nil, fmt.Errorf("the schema of policies: %w", err)
	}
	resolved, err := s.Resolve()
	if err != nil {
		return nil, fmt.Errorf("the schema of policies: %w", err)
	}
	v.valid = validate.New(resolved)
	return v, nil
}

const actionType = "Redoubt::Action"

func actionUID(verb string) cedar.EntityUID {
	return cedar.NewEntityUID(actionType, cedar.String(verb))
}

func roleUID(name string) cedar.EntityUID {
	return cedar.NewEntityUID("Redoubt::Role", cedar.String(name))
}

// Verbs returns every verb there is, sorted.
func Verbs() ([]string, error) {
	v, err := words()
	if err != nil {
		return nil, err
	}
	return v.verbs, nil
}

// KindsOf returns the kinds of resources that a verb is for, "" for the cluster, and
// whether there is such a verb.
func KindsOf(verb string) ([]string, bool) {
	v, err := words()
	if err != nil {
		return nil, false
	}
	kinds, ok := v.kinds[verb]
	return kinds, ok
}
