package threatmodel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFindTests(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"pki/a_test.go":          "package pki\nimport \"testing\"\nfunc TestJoin(t *testing.T) {}\nfunc TestMain(m *testing.M) {}\nfunc Testing(t *testing.T) {}\nfunc TestHelper(t testing.TB) {}\nfunc FuzzX(f *testing.F) {}\nfunc (x y) TestMethod(t *testing.T) {}\n",
		"pki/b_test.go":          "//go:build interop\n\npackage pki\nimport \"testing\"\nfunc TestInteropJoin(t *testing.T) {}\n",
		"pki/c_test.go":          "//go:build windows\n\npackage pki\nimport \"testing\"\nfunc TestElsewhere(t *testing.T) {}\n",
		"pki/d_test.go":          "//go:build linux && !interop\n\npackage pki\nimport \"testing\"\nfunc TestLinux(t *testing.T) {}\n",
		"pki/e.go":               "package pki\nimport \"testing\"\nfunc TestNoFile(t *testing.T) {}\n",
		"pki/testdata/a_test.go": "package x\nimport \"testing\"\nfunc TestData(t *testing.T) {}\n",
		"peer/go.mod":            "module peer\n",
		"peer/a_test.go":         "package x\nimport \"testing\"\nfunc TestPeer(t *testing.T) {}\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tests, err := FindTests(root)
	if err != nil {
		t.Fatal(err)
	}
	want := Tests{{"pki", "TestJoin"}: Unit, {"pki", "FuzzX"}: Unit, {"pki", "TestLinux"}: Unit, {"pki", "TestInteropJoin"}: Interop}
	if len(tests) != len(want) {
		t.Errorf("%v", tests)
	}
	for test, tier := range want {
		if tests[test] != tier {
			t.Errorf("%s: %q, want %q", test, tests[test], tier)
		}
	}
}

func TestDanglingTests(t *testing.T) {
	m := parse(t, small())
	found := m.CheckTests(Tests{{"pki", "TestJoin"}: Unit, {"pki/port", "TestLeave"}: Unit})
	if len(found) != 1 || !strings.Contains(found[0].String(), "threats.yaml:16: M-001: dangling: pki has no test TestLeave") ||
		!strings.Contains(found[0].What, "there is one in pki/port") {
		t.Errorf("%v", found)
	}
}

// stage is what `go test -json` tells of one package.
func stage(pkg, last string, outcomes ...string) string {
	var b strings.Builder
	line := func(action, test, output string) {
		b.WriteString(`{"Time":"2026-11-23T02:00:00Z","Action":"` + action + `","Package":"` + Module + "/" + pkg + `"`)
		if test != "" {
			b.WriteString(`,"Test":"` + test + `"`)
		}
		if output != "" {
			b.WriteString(`,"Output":"` + output + `"`)
		}
		b.WriteString("}\n")
	}
	line("start", "", "")
	for i := 0; i+1 < len(outcomes); i += 2 {
		line("run", outcomes[i], "")
		line("output", outcomes[i], `ok  \tnot the package\t(cached)\n`)
		line(outcomes[i+1], outcomes[i], "")
	}
	line("output", "", last)
	line("pass", "", "")
	return b.String()
}

func TestRan(t *testing.T) {
	const ok, cached = `ok  \tpki\t0.1s\n`, `ok  \tpki\t(cached)\n`
	tests := Tests{{"pki", "TestJoin"}: Unit, {"pki", "TestLeave"}: Unit}
	for name, c := range map[string]struct {
		stages []string
		want   string
	}{
		"both passed":               {[]string{stage("pki", ok, "TestJoin", "pass", "TestLeave", "pass")}, ""},
		"in two stages":             {[]string{stage("pki", ok, "TestJoin", "pass"), stage("pki", ok, "TestLeave", "pass")}, ""},
		"passed, skipped elsewhere": {[]string{stage("pki", ok, "TestJoin", "pass", "TestLeave", "skip"), stage("pki", ok, "TestLeave", "pass")}, ""},
		"one did not run":           {[]string{stage("pki", ok, "TestJoin", "pass")}, "pki.TestLeave did not run"},
		"one was skipped":           {[]string{stage("pki", ok, "TestJoin", "pass", "TestLeave", "skip")}, "pki.TestLeave was skipped"},
		"one failed":                {[]string{stage("pki", ok, "TestJoin", "pass", "TestLeave", "fail")}, "pki.TestLeave failed"},
		"failed in another stage":   {[]string{stage("pki", ok, "TestJoin", "pass", "TestLeave", "pass"), stage("pki", ok, "TestLeave", "fail")}, "pki.TestLeave failed"},
		"of another package":        {[]string{stage("pki", ok, "TestJoin", "pass"), stage("pki/port", ok, "TestLeave", "pass")}, "pki.TestLeave did not run"},
		"a part of it alone":        {[]string{stage("pki", ok, "TestJoin", "pass", "TestLeave/part", "pass")}, "pki.TestLeave did not run"},
		"of the cache":              {[]string{stage("pki", cached, "TestJoin", "pass", "TestLeave", "pass")}, "its result is of Go's cache"},
		"cached, run elsewhere":     {[]string{stage("pki", cached, "TestJoin", "pass", "TestLeave", "pass"), stage("pki", ok, "TestJoin", "pass", "TestLeave", "pass")}, ""},
	} {
		dir := t.TempDir()
		for i, s := range c.stages {
			if err := os.WriteFile(filepath.Join(dir, string(rune('a'+i))+".json"), []byte(s), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		results, err := ReadResults(dir)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		found, looked := parse(t, small()).CheckRan(tests, Unit, results)
		var got string
		if len(found) > 0 {
			got = found[len(found)-1].String()
		}
		if !strings.Contains(got, c.want) || c.want == "" && got != "" || looked != 2 {
			t.Errorf("%s: %v of %d, want %q", name, found, looked, c.want)
		}
		if found, looked := parse(t, small()).CheckRan(tests, Interop, results); len(found)+looked > 0 {
			t.Errorf("%s: tests of one tier are judged by the other's run: %v", name, found)
		}
	}
	if _, err := ReadResults(t.TempDir()); err == nil {
		t.Error("no results are results")
	}
}

func FuzzResults(f *testing.F) {
	f.Add(stage("pki", "ok", "TestJoin", "pass"))
	f.Add(`{"Action":"pass","Package":"x","Test":"y"}` + "\n{")
	f.Fuzz(func(t *testing.T, s string) {
		if err := (Results{}).add(strings.NewReader(s)); err != nil && err.Error() == "" {
			t.Fatal("an error that says nothing")
		}
	})
}
