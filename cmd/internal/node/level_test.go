package node

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/raftstore"
)

var updateLevels = flag.Bool("update-levels", false, "write down a new store level, which must be in docs/formats.md")

// TestLevels holds what may stand in the store against what each level has had
// since it was released. A manager halts at what it does not know, so what is new
// needs a level of its own, or of the release that is being made: `option
// (redoubt.raftstore.v1.since) = N` in a message, `[(…field_since) = N]` behind a
// field, `[(…value_since) = N]` behind a value.
func TestLevels(t *testing.T) {
	page, err := os.ReadFile("../../../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	now := map[string]string{} // by level
	for _, line := range raftstore.Declared(tables()) {
		level, _, _ := strings.Cut(line, " ")
		now[level] += line + "\n"
	}
	for n := 1; n <= int(storeLevel()); n++ {
		level := fmt.Sprint(n)
		if !strings.Contains(string(page), fmt.Sprintf("\n| store level %s | ", level)) {
			t.Errorf("docs/formats.md does not say what store level %s brought", level)
		}
		_, row, _ := strings.Cut(string(page), fmt.Sprintf("\n| store level %s | ", level))
		row, _, _ = strings.Cut(row, "\n")
		for line := range strings.Lines(now[level]) {
			if f := strings.Fields(line); n > 1 && f[1] == "table" && !strings.Contains(row, "`"+f[2]+"`") {
				t.Errorf("docs/formats.md does not say that store level %s brought table %s", level, f[2])
			}
		}
		file := filepath.Join("testdata", "level-"+level)
		if *updateLevels {
			if err := os.WriteFile(file, []byte(now[level]), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		was, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(was) != now[level] {
			t.Errorf("what store level %s means has changed: managers that are at it would not understand the others.\n"+
				"Give what is new a later level. Where no release had it yet: go test ./cmd/internal/node -run TestLevels -update-levels\nwas:\n%s\nis:\n%s", level, was, now[level])
		}
	}
}
