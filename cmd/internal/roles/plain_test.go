package roles

import (
	"fmt"
	"testing"

	"github.com/cedar-policy/cedar-go"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
)

// TestWhatIsLeftOfARole holds what a role's statements say of each verb against what is
// asked in their place.
func TestWhatIsLeftOfARole(t *testing.T) {
	all, err := builtins()
	if err != nil {
		t.Fatal(err)
	}
	verbs, err := Verbs()
	if err != nil {
		t.Fatal(err)
	}
	own, err := newRole("own", roleText("own", []string{"service.list", "config.read", "gone.verb"}))
	if err != nil {
		t.Fatal(err)
	}
	roles := []*Role{own}
	for _, r := range all {
		roles = append(roles, r)
	}
	for _, r := range roles {
		if !r.plain {
			t.Errorf("role %s is not plain: every call has all of its verbs looked through", r.Name)
		}
		for _, verb := range append(verbs, "gone.verb", "config", "") {
			for _, on := range []Resource{{}, {Kind: "Service", ID: "web", Labels: map[string]string{"a": "b"}}} {
				p := Principal{Kind: pkipb.Principal_KIND_PERSON, Name: "ann"}
				if got, want := allows(t, r.about(verb), r.Name, p, verb, on), allows(t, r.policies, r.Name, p, verb, on); got != want {
					t.Errorf("role %s, %s on %s: %v, and its statements say %v", r.Name, verb, on, got, want)
				}
			}
		}
	}
}

// TestRolesThatAreAskedWhole: of anything but a list of verbs nothing is left out.
func TestRolesThatAreAskedWhole(t *testing.T) {
	const verbs = `action in [Redoubt::Action::"service.list"]`
	for _, text := range []string{
		`forbid (principal in Redoubt::Role::"r", ` + verbs + `, resource);`,
		`permit (principal, ` + verbs + `, resource);`,
		`permit (principal in Redoubt::Role::"other", ` + verbs + `, resource);`,
		`permit (principal == Redoubt::Person::"ann", ` + verbs + `, resource);`,
		`permit (principal in Redoubt::Role::"r", action, resource);`,
		`permit (principal in Redoubt::Role::"r", action in [Redoubt::Action::"service"], resource);`,
		`permit (principal in Redoubt::Role::"r", action in Redoubt::Action::"service", resource);`,
		`permit (principal in Redoubt::Role::"r", ` + verbs + `, resource is Redoubt::Service);`,
		`permit (principal in Redoubt::Role::"r", ` + verbs + `, resource in Redoubt::Stack::"shop");`,
		`permit (principal in Redoubt::Role::"r", ` + verbs + `, resource) when { resource.name == "web" };`,
		`permit (principal in Redoubt::Role::"r", ` + verbs + `, resource) unless { resource.name == "web" };`,
	} {
		r, err := newRole("r", roleText("r", []string{"node.list"})+text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if r.plain || len(r.about("service.list")) != 2 || len(r.about("node.list")) != 2 {
			t.Errorf("%s is taken for a list of verbs", text)
		}
	}
}

func allows(t *testing.T, list []*cedar.Policy, role string, p Principal, verb string, on Resource) bool {
	t.Helper()
	v, err := words()
	if err != nil {
		t.Fatal(err)
	}
	set := cedar.NewPolicySet()
	for i, one := range list {
		set.Add(cedar.PolicyID(fmt.Sprint(i)), one)
	}
	all := &entities{p: p, roles: []string{role}, on: on, who: p.uid(), what: on.uid(), actions: v.actions}
	answer, why := cedar.Authorize(set, all, cedar.Request{Principal: all.who, Action: actionUID(verb), Resource: all.what})
	if len(why.Errors) > 0 {
		t.Fatal(why.Errors)
	}
	return answer == cedar.Allow
}
