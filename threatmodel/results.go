package threatmodel

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Results is what became of tests in one run, of one stage or of several.
type Results map[Test]Outcome

// Outcome counts what became of one test. One that passed in a stage may have
// failed in another.
type Outcome struct{ Passed, Failed, Skipped, Cached int }

// event is a line of `go test -json`.
type event struct{ Action, Package, Test, Output string }

// ReadResults reads every file of dir that ends in .json, each the output of
// `go test -json` of one stage.
func ReadResults(dir string) (Results, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s has no results: make test writes them", dir)
	}
	all := Results{}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		err = all.add(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return all, nil
}

// add takes one stage. What Go's cache remembered did not run: it counts as
// such, and not as passed.
func (r Results) add(stage io.Reader) error {
	outcomes := map[Test]Outcome{}
	cached := map[string]bool{}
	lines := bufio.NewScanner(stage)
	lines.Buffer(nil, maxEvent)
	for n := 1; lines.Scan(); n++ {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		t := Test{strings.TrimPrefix(e.Package, Module+"/"), e.Test}
		if e.Test == "" {
			if e.Action == "output" && strings.HasPrefix(e.Output, "ok ") && strings.HasSuffix(e.Output, "(cached)\n") {
				cached[t.Package] = true
			}
			continue
		}
		o := outcomes[t]
		switch e.Action {
		case "pass":
			o.Passed++
		case "fail":
			o.Failed++
		case "skip":
			o.Skipped++
		default:
			continue
		}
		outcomes[t] = o
	}
	for t, o := range outcomes {
		if cached[t.Package] {
			o = Outcome{Cached: 1}
		}
		sum := r[t]
		r[t] = Outcome{sum.Passed + o.Passed, sum.Failed + o.Failed, sum.Skipped + o.Skipped, sum.Cached + o.Cached}
	}
	return lines.Err()
}

// CheckRan finds the tests of a tier that the model names and that did not pass
// in the run of the results, and says how many it looked at.
func (m *Model) CheckRan(tests Tests, tier string, results Results) (found []Finding, looked int) {
	seen := map[Test]bool{}
	m.each(func(line int, id string, t Test) {
		if tests[t] != tier {
			return
		}
		if !seen[t] {
			looked++
		}
		seen[t] = true
		if why := results[t].why(); why != "" {
			found = append(found, Finding{line, id, fmt.Sprintf("%s %s", t, why)})
		}
	})
	return found, looked
}

// why says what keeps an outcome from showing anything; nothing where it passed.
func (o Outcome) why() string {
	switch {
	case o.Failed > 0:
		return "failed"
	case o.Passed > 0:
		return ""
	case o.Skipped > 0:
		return "was skipped"
	case o.Cached > 0:
		return "did not run: its result is of Go's cache"
	}
	return "did not run"
}
