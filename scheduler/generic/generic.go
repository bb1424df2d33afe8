// Package generic is about what a node has besides processors and memory, and hands out
// whole: so many of a kind ("licence": 3), or named ones ("gpu": GPU-1, GPU-2).
//
// It owns the grammar and bounds of kinds and names, and what containers are told of what
// they were given, which is as Swarm has it. Managers, who choose, and rund, which holds
// every task against its node's own configuration, mean the same by it.
//
// It refuses to know nodes, tasks or devices: who has what is the caller's to count. It
// imports nothing but the messages.
//
// Use: CheckReserved for a specification, CheckOwned for a node's configuration and
// report; Total and Choose for placement; Env for a container.
package generic

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

const (
	// MaxKinds bounds the kinds of one node or reservation, MaxNames the names of one
	// kind, MaxCount how many of a kind there are.
	MaxKinds = 32
	MaxNames = 256
	MaxCount = 1 << 20
)

var (
	kindRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)
	// A name becomes a part of a list with commas.
	nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}$`)
)

// CheckReserved returns an error unless a task may reserve all of it: numbers alone, as
// which ones they are is chosen with the node.
func CheckReserved(all []*taskpb.GenericResource) error {
	if err := checkKinds(all); err != nil {
		return err
	}
	for _, g := range all {
		switch {
		case len(g.GetNames()) > 0:
			return fmt.Errorf("generic resource %s: names are chosen with the node: say how many, as %s=1", g.GetKind(), g.GetKind())
		case g.GetCount() < 1 || g.GetCount() > MaxCount:
			return fmt.Errorf("generic resource %s: %d of it are reserved: use 1 to %d", g.GetKind(), g.GetCount(), MaxCount)
		}
	}
	return nil
}

// CheckOwned returns an error unless a node may have all of it.
func CheckOwned(all []*taskpb.GenericResource) error {
	if err := checkKinds(all); err != nil {
		return err
	}
	for _, g := range all {
		switch n := len(g.GetNames()); {
		case n > 0 && g.GetCount() != 0:
			return fmt.Errorf("generic resource %s has names and a count: keep one", g.GetKind())
		case n == 0 && (g.GetCount() < 1 || g.GetCount() > MaxCount):
			return fmt.Errorf("generic resource %s: there are %d of it: use 1 to %d, or names", g.GetKind(), g.GetCount(), MaxCount)
		case n > MaxNames:
			return fmt.Errorf("generic resource %s has %d names: at most %d are allowed", g.GetKind(), n, MaxNames)
		}
		seen := map[string]bool{}
		for _, name := range g.GetNames() {
			if !nameRule.MatchString(name) {
				return fmt.Errorf("generic resource %s: %q cannot be a name: use letters, digits and _ . : / -", g.GetKind(), ident.Clip(name))
			}
			if seen[name] {
				return fmt.Errorf("generic resource %s: %s is given twice: keep one", g.GetKind(), name)
			}
			seen[name] = true
		}
	}
	return nil
}

func checkKinds(all []*taskpb.GenericResource) error {
	if n := len(all); n > MaxKinds {
		return fmt.Errorf("there are %d generic resources: at most %d are allowed", n, MaxKinds)
	}
	seen := map[string]bool{}
	for _, g := range all {
		k := g.GetKind()
		if !kindRule.MatchString(k) {
			return fmt.Errorf("%q cannot be a generic resource: use letters, digits and _ . -", ident.Clip(k))
		}
		if key := strings.ToUpper(k); seen[key] { // a container has one variable of each
			return fmt.Errorf("generic resource %s is given twice: keep one", k)
		} else {
			seen[key] = true
		}
	}
	return nil
}

// Sort puts kinds into their one order.
func Sort(all []*taskpb.GenericResource) {
	slices.SortFunc(all, func(a, b *taskpb.GenericResource) int { return cmp.Compare(a.GetKind(), b.GetKind()) })
}

// Of gives what there is of a kind; nil: nothing.
func Of(all []*taskpb.GenericResource, kind string) *taskpb.GenericResource {
	for _, g := range all {
		if g.GetKind() == kind {
			return g
		}
	}
	return nil
}

// Total is how many there are.
func Total(g *taskpb.GenericResource) int64 { return g.GetCount() + int64(len(g.GetNames())) }

// Choose gives n of what a node has of a kind, of which those names are taken: the first
// ones, as the node has them. False: there are not as many.
func Choose(have *taskpb.GenericResource, taken func(name string) bool, n int64) (*taskpb.GenericResource, bool) {
	out := &taskpb.GenericResource{Kind: have.GetKind()}
	if len(have.GetNames()) == 0 {
		out.Count = n
		return out, have.GetCount() >= n
	}
	for _, name := range have.GetNames() {
		if int64(len(out.Names)) == n {
			break
		}
		if !taken(name) {
			out.Names = append(out.Names, name)
		}
	}
	return out, int64(len(out.Names)) == n
}

// Env are the variables by which a container knows what it was given, as Swarm names
// them: DOCKER_RESOURCE_GPU=GPU-1,GPU-2.
func Env(given []*taskpb.GenericResource) (out []string) {
	for _, g := range given {
		value := strings.Join(g.GetNames(), ",")
		if value == "" {
			value = fmt.Sprint(g.GetCount())
		}
		out = append(out, "DOCKER_RESOURCE_"+strings.ToUpper(g.GetKind())+"="+value)
	}
	return out
}
