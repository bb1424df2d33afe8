//go:build interop

package report

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// tool is a file of the packages that make test-interop installs.
func tool(t *testing.T, path ...string) string {
	t.Helper()
	dir := os.Getenv("REDOUBT_REPORTS")
	if dir == "" {
		t.Fatal("REDOUBT_REPORTS names no packages: make test-interop installs them")
	}
	return filepath.Join(append([]string{dir}, path...)...)
}

func samples(t *testing.T) map[string]*Report {
	t.Helper()
	return map[string]*Report{"sample": sample(t), "empty": empty(t), "waived": waived(t, waiver("w1", "lock", of("n1"), begun.Add(time.Hour)))}
}

// TestInteropSARIF: Microsoft's validator has nothing against it but that a build
// that is no release has a version that is no number.
func TestInteropSARIF(t *testing.T) {
	multitool := tool(t, "@microsoft", "sarif-multitool-linux", "Sarif.Multitool")
	validate := func(text []byte) (found []string) {
		dir := t.TempDir()
		in, out := filepath.Join(dir, "in.sarif"), filepath.Join(dir, "out.sarif")
		if err := os.WriteFile(in, text, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), multitool, "validate", in, "--output", out)
		cmd.Env = append(os.Environ(), "DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1", "DOTNET_BUNDLE_EXTRACT_BASE_DIR="+dir)
		said, err := cmd.CombinedOutput()
		raw, readErr := os.ReadFile(out)
		if readErr != nil {
			t.Fatalf("%v: %s", err, said)
		}
		var log struct {
			Runs []struct {
				Results []struct {
					RuleID  string `json:"ruleId"`
					Level   string
					Message struct{ Arguments []string }
				}
			}
		}
		if err := json.Unmarshal(raw, &log); err != nil {
			t.Fatal(err)
		}
		for _, run := range log.Runs {
			for _, r := range run.Results {
				found = append(found, fmt.Sprintf("%s %s %q", r.RuleID, r.Level, r.Message.Arguments))
			}
		}
		if err != nil && len(found) == 0 {
			t.Errorf("%v: %s", err, said)
		}
		return found
	}
	for name, r := range samples(t) {
		r.Tool = "redoubt 1.2.3"
		if found := validate(written(t, r, "sarif")); len(found) > 0 {
			t.Errorf("%s: %s", name, strings.Join(found, "\n"))
		}
	}
	spoilt := strings.Replace(string(written(t, sample(t), "sarif")), `"ruleIndex": 0`, `"ruleIndex": 99`, 1)
	if len(validate([]byte(spoilt))) == 0 {
		t.Error("the validator takes anything")
	}
}

var policyTag = regexp.MustCompile(`<meta http-equiv="Content-Security-Policy"[^>]*>\n`)

// TestInteropPage: axe has nothing against the page in Debian's Chromium, light, dark
// and narrow. The page itself runs no script: the copy that axe runs in has no policy.
func TestInteropPage(t *testing.T) {
	axe, err := os.ReadFile(tool(t, "axe-core", "axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is not there: make test-interop installs it")
	}
	const run = `<script>axe.run(document).then(r => {
		const p = document.createElement("pre"); p.id = "axe-said";
		p.textContent = JSON.stringify({Passes: r.passes.length, Violations: r.violations.map(v => v.id + " " + v.nodes.map(n => n.target).join(" "))}).replaceAll("<", " ").replaceAll("&", " ");
		document.body.appendChild(p);
	});</script>`
	// A Chromium of its own for each: it waits for one of the same profile otherwise.
	judge := func(page string, flags ...string) (said struct {
		Passes     int
		Violations []string
	}) {
		t.Helper()
		dir := t.TempDir()
		bare := policyTag.ReplaceAllString(page, "")
		if bare == page {
			t.Fatal("the page has no policy")
		}
		path := filepath.Join(dir, "page.html")
		bare = strings.Replace(bare, "</body>", "<script>"+string(axe)+"</script>"+run+"</body>", 1)
		if err := os.WriteFile(path, []byte(bare), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), chromium, append(flags, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--user-data-dir="+filepath.Join(dir, "profile"),
			"--virtual-time-budget=60000", "--dump-dom", "file://"+path)...) // root has no sandbox; the page is ours
		cmd.WaitDelay = 10 * time.Second
		dom, err := cmd.Output()
		_, after, found := strings.Cut(string(dom), `<pre id="axe-said">`)
		text, _, _ := strings.Cut(after, "</pre>")
		if !found || json.Unmarshal([]byte(text), &said) != nil {
			t.Fatalf("%v: axe said nothing: %.500s", err, dom)
		}
		return said
	}
	for name, r := range samples(t) {
		page := string(written(t, r, "html"))
		for _, flags := range [][]string{{"--window-size=1280,1000"}, {"--window-size=1280,1000", "--blink-settings=preferredColorScheme=0"}, {"--window-size=500,900"}} {
			if said := judge(page, flags...); len(said.Violations) > 0 || said.Passes < 10 {
				t.Errorf("%s %v: %d rules pass; %s", name, flags, said.Passes, strings.Join(said.Violations, "; "))
			}
		}
	}
	spoilt := strings.Replace(string(written(t, sample(t), "html")), `<html lang="en">`, "<html>", 1)
	if said := judge(spoilt, "--window-size=1280,1000"); len(said.Violations) == 0 {
		t.Error("axe takes anything")
	}
}
