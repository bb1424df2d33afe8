package image

import (
	"strings"
	"testing"

	"github.com/distribution/reference"
)

func TestParseCredential(t *testing.T) {
	c, err := ParseCredential([]byte(`{"registry":"r.test:5000","username":"u","password":"p"}` + "\n"))
	if err != nil || *c != (Credential{"r.test:5000", "u", "p"}) {
		t.Fatalf("%v, %v", c, err)
	}
	for _, bad := range []string{
		"", "{}", "null", `"x"`, `{"registry":"r","username":"u"}`, `{"registry":"r","username":"u","password":""}`,
		`{"registry":"r","username":"u","password":"p","more":1}`, `{"registry":"r","username":"u","password":"canary"} x`,
		`{"registry":"r","username":"u","password":"canary"`, strings.Repeat(" ", maxCredential+1),
	} {
		if c, err := ParseCredential([]byte(bad)); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: %v, %v", bad, c, err)
		}
	}
}

// TestCredentialIsForItsRegistry: nobody else is shown it.
func TestCredentialIsForItsRegistry(t *testing.T) {
	named := func(s string) reference.Named {
		n, err := reference.ParseNormalizedNamed(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	c := &Credential{"docker.io", "u", "p"}
	if got, err := c.of(named("alpine")); err != nil || got != c {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := c.of(named("r.test/alpine")); !IsRejected(err) {
		t.Errorf("another registry's image: %v", err)
	}
	if got, err := (*Credential)(nil).of(named("alpine")); got != nil || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	if u, p, _ := c.login("registry-1.docker.io", "registry-1.docker.io"); u != "u" || p != "p" {
		t.Error("its registry is not shown it")
	}
	if u, p, _ := c.login("registry-1.docker.io", "cdn.test"); u != "" || p != "" {
		t.Error("the host that the registry leads to is shown it")
	}
}

func FuzzParseCredential(f *testing.F) {
	f.Add([]byte(`{"registry":"r","username":"u","password":"p"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ParseCredential(b); err == nil && (c.Registry == "" || c.Username == "" || c.Password == "") {
			t.Errorf("%q: %v", b, c)
		}
	})
}
