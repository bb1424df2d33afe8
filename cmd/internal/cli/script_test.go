package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/cmd/internal/cli/clitest"
	"github.com/redoubt-cluster/redoubt/cmd/internal/contexts"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
)

// The scripts in testdata run the command as users do, in a process of its own.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"redoubt": func() {
			os.Exit(Main(context.Background(), System(), os.Args[1:]))
		},
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"person": func(ts *testscript.TestScript, _ bool, args []string) { cmdPerson(t, ts, args) },
			"node":   cmdNode,
			"exit":   cmdExit,
			"grab":   cmdGrab,
			"clean":  cmdClean,
			"blob":   cmdBlob,
			"edit":   cmdEdit,
		},
	})
}

// node STATE: starts a fake node in that state and points REDOUBT_HOST at it;
// its key is in key.txt, another one in wrong.txt.
func cmdNode(ts *testscript.TestScript, _ bool, args []string) {
	n, err := clitest.New(args[0])
	ts.Check(err)
	dir, err := os.MkdirTemp("", "rdt") // short: socket paths are bounded
	ts.Check(err)
	stop, err := n.Serve(dir)
	ts.Check(err)
	ts.Defer(func() { stop(); os.RemoveAll(dir) })
	ts.Setenv("REDOUBT_HOST", "unix://"+filepath.Join(dir, "api.sock"))
	ts.Check(os.WriteFile(ts.MkAbs("key.txt"), []byte(n.Key.String()), 0o600))
	wrong := autolock.NewOperatorKey()
	ts.Check(os.WriteFile(ts.MkAbs("wrong.txt"), []byte(wrong.String()), 0o600))
}

// edit FILE OLD NEW [signed]: replaces all OLD in a file that has it; with signed the
// cluster's signed statement in FILE.dsse is made about the file as it is then.
func cmdEdit(ts *testscript.TestScript, _ bool, args []string) {
	old := ts.ReadFile(args[0])
	text := strings.ReplaceAll(old, args[1], args[2])
	if text == old {
		ts.Fatalf("%s has no %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
	if len(args) > 3 {
		envelope, err := clitest.ResignReport("abcdefghijklmnopqrstuvwxya", []byte(ts.ReadFile(args[0]+".dsse")), []byte(text))
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[0]+".dsse"), envelope, 0o600))
	}
}

// person NAME LIFE: makes a context of that name in $XDG_CONFIG_HOME, of a person whose
// certificate ends in LIFE, or ended so long ago; nobody is at its manager's address.
// The age identity that opens it is in key.age.
func cmdPerson(t *testing.T, ts *testscript.TestScript, args []string) {
	life, err := time.ParseDuration(args[1])
	ts.Check(err)
	key, err := pki.NewKey()
	ts.Check(err)
	chain, err := pkitest.New(t).IssuePerson("alice", key.Public(), time.Now().Add(life-time.Hour), time.Hour)
	ts.Check(err)
	p, err := pki.NewPerson(chain, key, nil, []string{"127.0.0.1:9"})
	ts.Check(err)
	file := ts.MkAbs("key.age")
	if _, err := os.Stat(file); err != nil {
		i, err := age.GenerateX25519Identity()
		ts.Check(err)
		ts.Check(os.WriteFile(file, []byte(i.String()+"\n"), 0o600))
	}
	text, err := os.ReadFile(file)
	ts.Check(err)
	k, err := contexts.Identity(file, bytes.NewReader(text))
	ts.Check(err)
	s := contexts.Store{Dir: filepath.Join(ts.Getenv("XDG_CONFIG_HOME"), "redoubt", "contexts")}
	ts.Check(s.Prepare(context.Background(), args[0], true))
	ts.Check(s.Create(context.Background(), args[0], p, k))
}

// exit CODE ARG...: runs redoubt and checks its exit code exactly; stderr then
// holds one line, after warnings, when the code is not 0.
func cmdExit(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec("redoubt", args[1:]...)
	got := 0
	if err != nil {
		m := regexp.MustCompile(`exit status (\d+)`).FindStringSubmatch(err.Error())
		if m == nil {
			ts.Fatalf("redoubt: %v", err)
		}
		got, _ = strconv.Atoi(m[1])
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	if want != 0 && !regexp.MustCompile(`\A(redoubt: warning: [^\n]+\n)*redoubt: [^\n]+\n\z`).MatchString(ts.ReadFile("stderr")) {
		ts.Fatalf("stderr is not one line:\n%s", ts.ReadFile("stderr"))
	}
}

// grab FILE PATTERN: writes the match of PATTERN in stdout to FILE.
func cmdGrab(ts *testscript.TestScript, _ bool, args []string) {
	m := regexp.MustCompile(args[1]).FindString(ts.ReadFile("stdout"))
	if m == "" {
		ts.Fatalf("no %s in stdout", args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(m), 0o600))
}

// blob FILE: writes bytes that are no text.
func cmdBlob(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte{0, 0xff, '\n', 0}, 0o600))
}

// clean FILE: fails when stdout or stderr holds what is in FILE.
func cmdClean(ts *testscript.TestScript, _ bool, args []string) {
	secret := ts.ReadFile(args[0])
	for _, out := range []string{"stdout", "stderr"} {
		if regexp.MustCompile(regexp.QuoteMeta(secret)).MatchString(ts.ReadFile(out)) {
			ts.Fatalf("%s shows the secret of %s", out, args[0])
		}
	}
}
