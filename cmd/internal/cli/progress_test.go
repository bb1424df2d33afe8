package cli

import (
	"fmt"
	"strings"
	"testing"
)

// Thousands of tasks that wait for the same are one line; what is different is
// not lost in it.
func TestManyAlike(t *testing.T) {
	var lines []taskLine
	for i := range 3000 {
		lines = append(lines, taskLine{name: fmt.Sprint("web.", i+1), text: "pending: no suitable node"})
	}
	lines[1].text = "running on worker-1"
	for i := range maxAlike {
		lines[100+i].text = "preparing on worker-2"
	}
	var out strings.Builder
	(&progress{w: &out}).lines(lines)
	got := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(got) != 2+maxAlike || got[0] != fmt.Sprintf("web.1 and %d others: pending: no suitable node", 3000-2-maxAlike) ||
		got[1] != "web.2: running on worker-1" || got[2] != "web.101: preparing on worker-2" {
		t.Errorf("%q", got)
	}
}
