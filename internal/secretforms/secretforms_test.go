package secretforms_test

import (
	"crypto/sha256"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/secretforms"
	"github.com/redoubt-cluster/redoubt/pki"
)

// TestEveryPrefixIsAForm: what pki and autolock begin a text for people with is on the
// list, so that a new one is not forgotten here.
func TestEveryPrefixIsAForm(t *testing.T) {
	met := 0
	for _, dir := range []string{"pki", "autolock"} {
		paths, err := filepath.Glob(filepath.Join("..", "..", dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				c, ok := n.(*ast.ValueSpec)
				for i := 0; ok && i < min(len(c.Names), len(c.Values)); i++ {
					lit, isText := c.Values[i].(*ast.BasicLit)
					if !isText || lit.Kind != token.STRING || !strings.HasSuffix(strings.ToLower(c.Names[i].Name), "prefix") {
						continue
					}
					prefix, err := strconv.Unquote(lit.Value)
					if err != nil || !strings.HasPrefix(prefix, "RDT") {
						continue
					}
					met++
					if !slices.ContainsFunc(secretforms.All(), func(f secretforms.Form) bool {
						return strings.TrimSuffix(f.Prefix, ".") == strings.TrimSuffix(prefix, ".")
					}) {
						t.Errorf("%s: %s = %q is no form of a secret", path, c.Names[i].Name, prefix)
					}
				}
				return true
			})
		}
	}
	if met < 4 {
		t.Errorf("%d prefixes were met", met)
	}
}

// TestRedact: of each form nothing is left but its prefix, in whatever case; what only
// speaks of one stays as it is.
func TestRedact(t *testing.T) {
	for _, f := range secretforms.All() {
		for _, s := range []string{f.Prefix + "secret.secret-secret", "x=" + strings.ToLower(f.Prefix) + "SECRET)"} {
			if got := secretforms.Redact("say " + s); strings.Contains(strings.ToLower(got), "secret.") || strings.Contains(got, "SECRET)") || strings.HasSuffix(strings.ToLower(strings.TrimSuffix(got, ")")), "secret") {
				t.Errorf("%q", got)
			}
		}
		if s := "one begins with " + f.Prefix; secretforms.Redact(s) != s {
			t.Errorf("%q", secretforms.Redact(s))
		}
	}
	if got := secretforms.Redact("-----BEGIN PRIVATE KEY-----\nMC4C\nMC5D\n-----END"); strings.Contains(got, "MC") {
		t.Errorf("%q", got)
	}
}

// TestFound: texts as they are given out are found in what holds them.
func TestFound(t *testing.T) {
	sum := sha256.Sum256(nil)
	tok, err := pki.NewToken().Bind(ident.New(), sum[:])
	if err != nil {
		t.Fatal(err)
	}
	inv, err := pki.NewInvitation().Bind(ident.New(), sum[:], []string{"192.0.2.1:2377"})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{tok.Text(): "a join token", inv.Text(): "an invitation", "RDTKEY-ABCDEFGH-": "an operator key", "RDTSHARE-ABCDEFGH": "a share",
		"AGE-SECRET-KEY-1QQQQ": "an identity of age", "-----BEGIN EC PRIVATE KEY-----": "a private key in PEM", "RDTSHARE- is how a share begins": ""} {
		got := strings.Join(secretforms.Found([]byte("x\x00"+text)), ", ")
		if got != want {
			t.Errorf("%q is taken for %q, want %q", text[:8], got, want)
		}
	}
}
