package image

import (
	"testing"

	"github.com/distribution/reference"

	"github.com/redoubt-cluster/redoubt/secrets/credential"
)

// TestCredentialIsForItsRegistry: nobody else is shown it.
func TestCredentialIsForItsRegistry(t *testing.T) {
	named := func(s string) reference.Named {
		n, err := reference.ParseNormalizedNamed(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	b, err := credential.Encode("docker.io", "u", []byte("p"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := credential.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := shown(c, named("alpine")); err != nil || got != c {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := shown(c, named("r.test/alpine")); !IsRejected(err) {
		t.Errorf("another registry's image: %v", err)
	}
	if got, err := shown(nil, named("alpine")); got != nil || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	if u, p, _ := login(c, "registry-1.docker.io", "registry-1.docker.io"); u != "u" || p != "p" {
		t.Error("its registry is not shown it")
	}
	if u, p, _ := login(c, "registry-1.docker.io", "cdn.test"); u != "" || p != "" {
		t.Error("the host that the registry leads to is shown it")
	}
	c.Wipe()
	if _, _, err := login(c, "registry-1.docker.io", "registry-1.docker.io"); err == nil {
		t.Error("nothing is shown as if there were nothing to show")
	}
}
