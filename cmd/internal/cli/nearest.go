package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// maxNearest is how many names an error proposes.
const maxNearest = 3

// nearest are those names that somebody may have meant, the nearest first: of a few
// letters' difference, or with what was typed in them.
func nearest(typed string, names []string) []string {
	type candidate struct {
		name string
		far  int
	}
	var all []candidate
	typed = strings.ToLower(ident.Clip(typed))
	for _, name := range names {
		switch far := distance(typed, name); {
		case far <= max(1, len(typed)/4):
			all = append(all, candidate{name, far})
		case len(typed) >= 3 && strings.Contains(name, typed):
			all = append(all, candidate{name, len(typed)})
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return a.far - b.far })
	var out []string
	for _, c := range all[:min(len(all), maxNearest)] {
		out = append(out, c.name)
	}
	return out
}

// distance is how many bytes must be added, taken out or replaced to make a b.
func distance(a, b string) int {
	row := make([]int, len(b)+1) // from a[:i] to each b[:j]
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			least := min(row[j], row[j+1]) + 1
			if a[i] == b[j] {
				least = min(least, corner)
			} else {
				least = min(least, corner+1)
			}
			corner, row[j+1] = row[j+1], least
		}
	}
	return row[len(b)]
}

func noSuchControl(typed string) error {
	const all = "`redoubt compliance profiles redoubt-baseline` lists them"
	if near := nearest(typed, controlIDs()); len(near) > 0 {
		return fmt.Errorf("no control is called %q: is it %s? %s", ident.Clip(typed), strings.Join(near, ", "), all)
	}
	return fmt.Errorf("no control is called %q: %s", ident.Clip(typed), all)
}
