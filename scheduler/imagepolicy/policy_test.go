package imagepolicy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy/imagepolicytest"
)

func parse(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParse(t *testing.T) {
	key := imagepolicytest.Indent(imagepolicytest.NewSigner().PEM(), 8)
	ca := imagepolicytest.Indent(imagepolicytest.NewCA(time.Now().Add(time.Hour)).PEM(), 6)
	whole := `format: 1
signers:
  - name: release
    keys:
      - |
        ` + key + `
  - name: ci
    ca: |
      ` + ca + `
    identities: ["https://git.example.com/team/*", dev@example.com]
    issuer: https://git.example.com
rules:
  - name: own
    images: [registry.example.com/team/**, "registry.example.com:5000/*/web-*"]
    by_digest: true
    signatures: {by: [release, ci], count: 2}
    attestations:
      - {type: https://slsa.dev/provenance/v1, by: [ci]}
  - name: mirror
    images: [docker.io/library/*]
    unsigned: true
`
	if p := parse(t, whole); strings.Join(p.Rules(), " ") != "own mirror" || len(p.Digest()) != 64 {
		t.Fatal(p.Rules(), p.Digest())
	}
	for _, c := range []struct{ from, to, want string }{
		{"format: 1", "format: 2", "format 2"},
		{"format: 1", "", "format 0"},
		{"by_digest: true", "by_dijest: true", "unknown key \"by_dijest\""},
		{"    unsigned: true\n", "", "say what is asked for"},
		{"    unsigned: true\n", "    unsigned: true\n    signatures: {by: [ci]}\n", "not both"},
		{"by: [release, ci], count: 2", "by: [release, nobody], count: 2", `no signer "nobody"`},
		{"by: [release, ci], count: 2", "by: [release, release]", "signer release is there twice"},
		{"by: [release, ci], count: 2", "by: [release], count: 2", "only 1 can sign"},
		{"by: [release, ci], count: 2", "by: [release], count: -1", "1 or more"},
		{"by: [release, ci], count: 2", "by: []", "must name a signer"},
		{"by: [release, ci], count: 2", "by: [ci]", "signer release is named by no rule"},
		{"name: mirror", "name: own", "rule own is there twice"},
		{"name: ci", "name: release", "signer release is there twice"},
		{"docker.io/library/*", "registry.example.com/team/**", "pattern of rule own already"},
		{"docker.io/library/*", "library/*", "can match nothing"},
		{"docker.io/library/*", "'*/library'", "name the registry in full"},
		{"docker.io/library/*", "docker.io/**/x", "write REGISTRY/NAME"},
		{"docker.io/library/*", "docker.io/library/nginx:1", "no tag"},
		{"docker.io/library/*", "'docker.io/library/n[a]'", "write REGISTRY/NAME"},
		{"type: https://slsa.dev/provenance/v1", "type: slsa", "predicate type in full"},
		{"type: https://slsa.dev/provenance/v1", "type: https://sigstore.dev/cosign/sign/v1", "use `signatures`"},
		{"https://git.example.com/team/*", "*", "may only stand at the end"},
		{"https://git.example.com/team/*", "https://*/team", "may only stand at the end"},
		{`identities: ["https://git.example.com/team/*", dev@example.com]`, "", "by `identities`"},
		{"BEGIN PUBLIC KEY", "BEGIN PRIVATE KEY", "key 1: it must be one PEM block"},
		{"BEGIN CERTIFICATE", "BEGIN PUBLIC KEY", "ca: it must be PEM blocks"},
	} {
		text := strings.Replace(whole, c.from, c.to, 1)
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q instead of %q: %v", c.to, c.from, err)
		}
	}
	for text, want := range map[string]string{
		"":                                        "empty",
		"format: 1\nrules: []\n":                  "admit nothing",
		"format: 1\n---\nformat: 1\n":             "more than one",
		"# " + strings.Repeat("x", MaxDocument):   "longer than",
		"format: 1\nformat: 1\n":                  "already",
		strings.Replace(whole, key, "rubbish", 1): "key 1",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

// TestFirstRuleDecides: patterns, their order, and that nothing is admitted without
// a rule.
func TestFirstRuleDecides(t *testing.T) {
	p := parse(t, `format: 1
rules:
  - {name: pinned, images: [docker.io/library/nginx], by_digest: true, unsigned: true}
  - {name: hub, images: [docker.io/library/*], unsigned: true}
  - {name: team, images: [r.example.com/team/**, "r.example.com:5000/a-*/web"], unsigned: true}
`)
	digest := "@sha256:" + strings.Repeat("ab", 32)
	for ref, want := range map[string]string{
		"nginx" + digest:                   "pinned",
		"nginx":                            "! rule pinned: the image must be named by its digest",
		"redis:7":                          "hub",
		"someone/redis":                    "! no rule is for docker.io/someone/redis",
		"docker.io/library/deep/redis":     "! no rule",
		"r.example.com/team/a/b/c:1":       "team",
		"r.example.com/team":               "! no rule",
		"r.example.com/teams/a":            "! no rule",
		"r.example.com:5000/a-b/web":       "team",
		"r.example.com:5000/a-b/c/web":     "! no rule",
		"r.example.com:5001/a-b/web":       "! no rule",
		"r.example.com.evil.com/team/a":    "! no rule",
		"evil.com/r.example.com/team/a":    "! no rule",
		"docker.io.evil.com/library/redis": "! no rule",
		"NGINX":                            "! no image reference",
	} {
		r, err := p.Decide(ref)
		got := ""
		if err != nil {
			got = "! " + err.Error()
			if !IsRefusal(err) {
				t.Errorf("%s: %v is no refusal", ref, err)
			}
		} else {
			got = r.Name()
		}
		if strings.HasPrefix(want, "!") && !strings.Contains(got, strings.TrimPrefix(want, "! ")) || !strings.HasPrefix(want, "!") && got != want {
			t.Errorf("%s: %s, not %s", ref, got, want)
		}
	}
	all := parse(t, "format: 1\nrules:\n  - {name: all, images: ['**'], unsigned: true}\n")
	if r, err := all.Decide("anything/at/all"); err != nil || r.NeedsEvidence() {
		t.Fatal(err)
	}
}

func ruleOf(t *testing.T, p *Policy) *Rule {
	t.Helper()
	r, err := p.Decide("r.example.com/app")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func keyPolicy(count int, signers ...*imagepolicytest.Signer) string {
	s := "format: 1\nsigners:\n"
	by := ""
	for i, k := range signers {
		s += fmt.Sprintf("  - name: s%d\n    keys:\n      - |\n        %s\n", i, imagepolicytest.Indent(k.PEM(), 8))
		by += fmt.Sprintf("s%d, ", i)
	}
	return s + fmt.Sprintf("rules:\n  - {name: app, images: [r.example.com/app], signatures: {by: [%s], count: %d}}\n", by, count)
}
