package dispatcher

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// TestCheckAnswersAreBounded: what a node says of itself is harmless before anybody
// sees it, and what is malformed is taken for no answer at all.
func TestCheckAnswersAreBounded(t *testing.T) {
	good := func() *schedulerpb.CheckAnswer {
		return &schedulerpb.CheckAnswer{Results: []*taskpb.CheckResult{
			{Control: "files-own", Outcome: "fail", Evidence: []string{"a\x1b[2J\nb", strings.Repeat("x", 1000)}, Took: -5},
			{Control: "autolock-on", Outcome: "pass"}}}
	}
	clean := cleanCheck(good())
	if len(clean.Results) != 2 || clean.Error != "" {
		t.Fatalf("%v", clean)
	}
	if r := clean.Results[0]; strings.ContainsAny(r.Evidence[0], "\x1b\n") || len(r.Evidence[1]) > maxCheckLine || r.Took != 0 {
		t.Errorf("%q", r)
	}
	for name, spoil := range map[string]func(a *schedulerpb.CheckAnswer){
		"an outcome that is none":  func(a *schedulerpb.CheckAnswer) { a.Results[0].Outcome = "waived" },
		"a control twice":          func(a *schedulerpb.CheckAnswer) { a.Results[1].Control = "files-own" },
		"too many lines":           func(a *schedulerpb.CheckAnswer) { a.Results[0].Evidence = make([]string, maxCheckLines+1) },
		"too much":                 func(a *schedulerpb.CheckAnswer) { a.Results[0].Evidence[0] = strings.Repeat("x", maxCheckAnswer) },
		"a field nobody knows":     func(a *schedulerpb.CheckAnswer) { a.Results[0].ProtoReflect().SetUnknown([]byte{0x78, 0x01}) },
		"results beside an error":  func(a *schedulerpb.CheckAnswer) { a.Error = "rund is away" },
		"an error that is a story": func(a *schedulerpb.CheckAnswer) { a.Error = strings.Repeat("a\n", 5000) },
	} {
		a := good()
		spoil(a)
		if got := cleanCheck(a); len(got.Results) != 0 || got.Error == "" || len(got.Error) > maxMessageText || strings.Contains(got.Error, "\n") {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// FuzzCheckAnswer: whatever a node says, what is passed on is within the bounds.
func FuzzCheckAnswer(f *testing.F) {
	for _, a := range []*schedulerpb.CheckAnswer{{}, {Error: "x"}, {Results: []*taskpb.CheckResult{{Control: "files-own", Outcome: "pass", Evidence: []string{"1 looked at"}}}}} {
		data, err := proto.Marshal(a)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		a := &schedulerpb.CheckAnswer{}
		if proto.Unmarshal(data, a) != nil {
			return
		}
		got := cleanCheck(a)
		seen := map[string]bool{}
		for _, r := range got.Results {
			if seen[r.Control] || len(r.Evidence) > maxCheckLines {
				t.Fatalf("%v", r)
			}
			seen[r.Control] = true
			for _, e := range r.Evidence {
				if len(e) > maxCheckLine || strings.ContainsAny(e, "\n\r\x1b") {
					t.Fatalf("%q", e)
				}
			}
		}
	})
}
