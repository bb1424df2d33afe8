package rolestest

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Table is docs/roles.md.
type Table struct {
	// Columns are the roles, and break-glass.
	Columns []string
	Verbs   []string
	permits map[[2]string]bool // column and verb
}

// ReadTable reads it from that file, strictly.
func ReadTable(path string) (t Table, _ error) {
	f, err := os.Open(path)
	if err != nil {
		return t, err
	}
	defer f.Close()
	t.permits = map[[2]string]bool{}
	for in := bufio.NewScanner(f); in.Scan(); {
		row, ok := strings.CutPrefix(in.Text(), "| ")
		if !ok {
			continue
		}
		cells := strings.Split(strings.TrimSuffix(row, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if t.Columns == nil {
			if t.Columns = cells[1:]; cells[0] != "verb" {
				return t, fmt.Errorf("%s: the first table is not that of verbs: %q", path, row)
			}
			continue
		}
		verb := strings.Trim(cells[0], "`")
		if len(cells) != len(t.Columns)+1 || slices.Contains(t.Verbs, verb) {
			return t, fmt.Errorf("%s: the row of %s is not one of the table", path, verb)
		}
		t.Verbs = append(t.Verbs, verb)
		for i, column := range t.Columns {
			switch said := cells[i+1]; said {
			case "yes", "":
				t.permits[[2]string{column, verb}] = said == "yes"
			default:
				return t, fmt.Errorf("%s: %s by %s is %q, and neither yes nor empty", path, verb, column, said)
			}
		}
	}
	if len(t.Verbs) == 0 {
		return t, fmt.Errorf("%s has no table", path)
	}
	return t, nil
}

// Denied are those of verbs that the column has no yes for; it has for none where there
// is no such column.
func (t Table) Denied(column string, verbs []string) (out []string) {
	for _, v := range verbs {
		if !t.permits[[2]string{column, v}] {
			out = append(out, v)
		}
	}
	return out
}
