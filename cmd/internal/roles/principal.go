package roles

import (
	"fmt"
	"strings"

	"github.com/cedar-policy/cedar-go"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
)

// Principal is who acts. It is a key of maps.
type Principal struct {
	Kind pkipb.Principal_Kind
	// Name of a person or of a local user; Node is the id of that user's, or of
	// local root's, manager.
	Name, Node string
}

// PrincipalOf is a record's.
func PrincipalOf(p *pkipb.Principal) Principal {
	return Principal{p.GetKind(), p.GetName(), p.GetNode()}
}

// Record is p as the store has it.
func (p Principal) Record() *pkipb.Principal {
	return &pkipb.Principal{Kind: p.Kind, Name: p.Name, Node: p.Node}
}

// FromIdentity returns who calls, as roles know them.
func FromIdentity(id authz.Identity) (Principal, error) {
	if id.LocalRoot && id.LocalRootOf != "" {
		return Principal{Kind: pkipb.Principal_KIND_LOCAL_ROOT, Node: id.LocalRootOf}, nil
	}
	if id.User != "" && id.UserOf != "" {
		return Principal{Kind: pkipb.Principal_KIND_LOCAL_USER, Name: id.User, Node: id.UserOf}, nil
	}
	if id.Person != "" {
		return Principal{Kind: pkipb.Principal_KIND_PERSON, Name: id.Person}, nil
	}
	return Principal{}, fmt.Errorf("%s is nobody who can have a role", id)
}

// ParsePrincipal reads "person:NAME", "user:NAME@NODE" or "root:NODE". The node is
// what its caller wrote, a name or an id.
func ParsePrincipal(s string) (Principal, error) {
	kind, rest, _ := strings.Cut(s, ":")
	switch kind {
	case "person":
		return Principal{Kind: pkipb.Principal_KIND_PERSON, Name: rest}, ident.CheckName(rest)
	case "user":
		name, node, ok := strings.Cut(rest, "@")
		if !ok || authz.CheckUser(name) != nil || node == "" {
			break
		}
		return Principal{Kind: pkipb.Principal_KIND_LOCAL_USER, Name: name, Node: node}, nil
	case "root":
		if rest == "" {
			break
		}
		return Principal{Kind: pkipb.Principal_KIND_LOCAL_ROOT, Node: rest}, nil
	}
	return Principal{}, fmt.Errorf("%q names nobody: write person:NAME, user:NAME@NODE or root:NODE", ident.Clip(s))
}

// Text is p as ParsePrincipal reads it, with node in the place of the node's id
// where it is not empty.
func (p Principal) Text(node string) string {
	if node == "" {
		node = p.Node
	}
	switch p.Kind {
	case pkipb.Principal_KIND_LOCAL_ROOT:
		return "root:" + node
	case pkipb.Principal_KIND_LOCAL_USER:
		return "user:" + p.Name + "@" + node
	}
	return "person:" + p.Name
}

func (p Principal) uid() cedar.EntityUID {
	switch p.Kind {
	case pkipb.Principal_KIND_LOCAL_ROOT:
		return cedar.NewEntityUID("Redoubt::LocalRoot", cedar.String(p.Node))
	case pkipb.Principal_KIND_LOCAL_USER:
		return cedar.NewEntityUID("Redoubt::LocalUser", cedar.String(p.Name+"@"+p.Node))
	}
	return cedar.NewEntityUID("Redoubt::Person", cedar.String(p.Name))
}
