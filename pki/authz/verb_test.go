package authz

import (
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
)

// TestVerbsAreChecked gives declarations that mean nothing: each is refused, and so
// the method to everybody.
func TestVerbsAreChecked(t *testing.T) {
	request := (&pkipb.Node{}).ProtoReflect().Descriptor() // has a name and no labels
	for want, v := range map[string]*authzpb.Verb{
		"is not the name of a verb":               {Name: "Node.Update"},
		`no kind of resource "Pod"`:               {Name: "node.update", Resource: "Pod", From: "id"},
		"go together":                             {Name: "node.update", Resource: "Node"},
		"verb node.list: a kind of":               {Name: "node.list", Each: true},
		"has no field nodes":                      {Name: "node.update", Resource: "Node", From: "nodes"},
		"id.x has no fields":                      {Name: "node.update", Resource: "Node", From: "id.x"},
		"names no resource":                       {Name: "node.update", Resource: "Node", From: "denied"},
		`"stolen=true" is no condition`:           {Name: "node.update", When: []string{"stolen=true"}},
		`"denied" is no condition`:                {Name: "node.update", When: []string{"denied"}},
		`"denied=yes" is no value`:                {Name: "node.update", When: []string{"denied=yes"}},
		`"role=ROLE_QUEEN" is no value`:           {Name: "node.update", When: []string{"role=ROLE_QUEEN"}},
		`"name=x" is no value of the field`:       {Name: "node.update", When: []string{"name=x"}},
		`"leaf.nope!=" is no condition`:           {Name: "node.update", When: []string{"leaf.nope!="}},
		`"name.x=y" is no condition`:              {Name: "node.update", When: []string{"name.x=y"}},
		`".!=" is no condition`:                   {Name: "node.update", When: []string{".!="}},
		`verb node.update: "=" is no condition o`: {Name: "node.update", When: []string{"="}},
	} {
		if _, err := compileVerbs(request, []*authzpb.Verb{v}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", v, err, want)
		}
	}
}

func TestWhoDoesNothingWithAVerbIsRefused(t *testing.T) {
	request := &pkipb.Node{}
	verbs, err := compileVerbs(request.ProtoReflect().Descriptor(), []*authzpb.Verb{{Name: "node.revoke", When: []string{"denied=true"}}})
	if err != nil {
		t.Fatal(err)
	}
	r := &rule{verbs: verbs}
	if acts, err := r.acts(request); err == nil {
		t.Errorf("it was let do %v", acts)
	}
	request.Denied = true
	if acts, err := r.acts(request); err != nil || len(acts) != 1 || acts[0] != (Act{Verb: "node.revoke"}) {
		t.Errorf("%v, %v", acts, err)
	}
}

// TestWhenSomethingWithinIsThere: conditions look into messages, of what is repeated and
// of messages only whether there is any.
func TestWhenSomethingWithinIsThere(t *testing.T) {
	request := (&authzpb.Rule{}).ProtoReflect().Descriptor()
	holds := func(when string, r *authzpb.Rule) bool {
		c, err := compileCondition(request, when)
		if err != nil {
			t.Fatal(err)
		}
		return c.holds(r.ProtoReflect())
	}
	if !holds("verbs!=", &authzpb.Rule{Verbs: []*authzpb.Verb{{}}}) || holds("verbs!=", &authzpb.Rule{}) || !holds("verbs=", &authzpb.Rule{}) {
		t.Error("verbs")
	}
	for _, bad := range []string{"verbs=x", "verbs.name!=", "callers=CALLER_PERSON"} {
		if _, err := compileCondition(request, bad); err == nil {
			t.Errorf("%s is a condition", bad)
		}
	}
}
