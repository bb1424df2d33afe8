package cli

import (
	"encoding/base64"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// TestWhatALeaderSaysOfWitnesses: whatever it is, it is a warning or an error, and no
// control character comes with it.
func TestWhatALeaderSaysOfWitnesses(t *testing.T) {
	c := checkpoint.Checkpoint{Cluster: ident.New(), Incarnation: 1, Size: 2, Root: tlog.Hash{1}}
	line := func(name string) string {
		return "— " + name + " " + base64.StdEncoding.EncodeToString(make([]byte, 68)) + "\n"
	}
	plain, hostile := string(checkpoint.Note(c, line("stranger"))), string(checkpoint.Note(c, line("evil\u009b2J")))
	for name, w := range map[string]struct {
		note string
		say  *controlpb.WitnessView
		warn string
		err  string
	}{
		"an alarm of no time":     {plain, &controlpb.WitnessView{Alarm: "it knows\x1b another"}, "ALARM of witness", ""},
		"a failure of no time":    {plain, &controlpb.WitnessView{Failure: "no\x1b route"}, "has not cosigned it", ""},
		"a signer with a command": {hostile, &controlpb.WitnessView{}, "", "it has control characters"},
	} {
		var told strings.Builder
		a := &app{Env: Env{Stderr: &told}}
		w.say.Name, w.say.Key = "witness.example/w1", "witness.example/w1+e42b2f2c+BDtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
		err := a.checkCosigners(&controlpb.GetCheckpointResponse{Note: []byte(w.note), Witnesses: []*controlpb.WitnessView{w.say}}, "")
		if (err != nil) != (w.err != "") || err != nil && !strings.Contains(err.Error(), w.err) || !strings.Contains(told.String(), w.warn) || strings.ContainsAny(told.String(), "\x1b\u009b") {
			t.Errorf("%s: %q, %v", name, told.String(), err)
		}
	}
}
