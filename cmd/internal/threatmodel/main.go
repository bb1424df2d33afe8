// Threatmodel judges threatmodel/threats.yaml against the tree it is run in, and
// writes what is generated from it. `make threatmodel` runs it, and so do the
// last stages of `make test` and `make test-interop`, with what became of their
// tests.
//
// It ends with 1 and a line for each finding.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/redoubt-cluster/redoubt/threatmodel"
)

func main() {
	write := flag.Bool("write", false, "write docs/threat-model.md and docs/threat-model.otm.json")
	ran := flag.String("ran", "", "`directory` with what `go test -json` told of each stage of this run")
	tier := flag.String("tier", threatmodel.Unit, "whose results these are: test or test-interop")
	flag.Parse()
	if err := run(".", *write, *ran, *tier); err != nil {
		fmt.Fprintln(os.Stderr, "threat model:", err)
		os.Exit(1)
	}
}

func run(root string, write bool, ran, tier string) error {
	if tier != threatmodel.Unit && tier != threatmodel.Interop {
		return fmt.Errorf("-tier %s: give test or test-interop", tier)
	}
	data, err := os.ReadFile(filepath.Join(root, "threatmodel", "threats.yaml"))
	if err != nil {
		return err
	}
	m, err := threatmodel.Parse(data)
	if err != nil {
		return fmt.Errorf("threats.yaml: %w", err)
	}
	tests, err := threatmodel.FindTests(root)
	if err != nil {
		return err
	}
	found := append(m.Check(time.Now(), threatmodel.Controls()), m.CheckTests(tests)...)
	looked := 0
	if ran != "" {
		results, err := threatmodel.ReadResults(ran)
		if err != nil {
			return err
		}
		var failed []threatmodel.Finding
		failed, looked = m.CheckRan(tests, tier, results)
		found = append(found, failed...)
	}
	for _, f := range found {
		fmt.Fprintln(os.Stderr, f)
	}
	if len(found) > 0 {
		return fmt.Errorf("%d findings", len(found))
	}
	if write {
		if err := generate(root, m, tests); err != nil {
			return err
		}
	}
	tell(m.Count(tests), ran != "", tier, looked)
	return nil
}

func generate(root string, m *threatmodel.Model, tests threatmodel.Tests) error {
	otm, err := m.OTM()
	if err != nil {
		return err
	}
	for name, text := range map[string][]byte{"threat-model.md": m.Markdown(tests), "threat-model.otm.json": otm} {
		if err := os.WriteFile(filepath.Join(root, "docs", name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// tell says what was checked and, as plainly, what was not.
func tell(n threatmodel.Count, ran bool, tier string, looked int) {
	fmt.Printf("threat model: %d threats, %d mitigations, bound to %d tests and %d controls\n", n.Threats, n.Mitigations, n.Unit+n.Interop, n.Controls)
	fmt.Println("checked: ids, references, orphans, dates of review, and that every test named exists")
	if ran {
		fmt.Printf("checked: that %d tests of make %s ran and passed in this run\n", looked, tier)
	}
	if !ran || tier != threatmodel.Unit {
		fmt.Printf("not checked: that the %d tests of make test pass\n", n.Unit)
	}
	if !ran || tier != threatmodel.Interop {
		fmt.Printf("not checked: that the %d tests of make test-interop pass\n", n.Interop)
	}
}
