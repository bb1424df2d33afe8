package spec

import (
	"fmt"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// validateNetworks checks what can be told without the networks themselves, and
// then refuses all of it for as long as nodes cannot attach anything.
func validateNetworks(uses []*taskpb.NetworkUse) error {
	if len(uses) == 0 {
		return nil
	}
	if len(uses) > meshspec.MaxUses {
		return fmt.Errorf("there are %d networks: a service can be on %d at most", len(uses), meshspec.MaxUses)
	}
	for i, u := range uses {
		if err := ident.CheckName(u.GetNetwork()); err != nil {
			return fmt.Errorf("network: %w", err)
		}
		for _, other := range uses[:i] {
			if other.GetNetwork() == u.GetNetwork() {
				return fmt.Errorf("network %s is given twice: keep one, with all aliases", u.GetNetwork())
			}
		}
		if len(u.GetAliases()) > meshspec.MaxAliases {
			return fmt.Errorf("network %s: there are %d aliases: at most %d are allowed", u.GetNetwork(), len(u.GetAliases()), meshspec.MaxAliases)
		}
		seen := map[string]bool{}
		for _, alias := range u.GetAliases() {
			if err := ident.CheckName(alias); err != nil {
				return fmt.Errorf("network %s: alias: %w", u.GetNetwork(), err)
			}
			if seen[alias] {
				return fmt.Errorf("network %s: alias %s is given twice: keep one", u.GetNetwork(), alias)
			}
			seen[alias] = true
		}
	}
	return nil
}
