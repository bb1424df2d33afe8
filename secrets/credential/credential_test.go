package credential_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/secrets/credential"
)

func TestCredential(t *testing.T) {
	b, err := credential.Encode("r.test:5000", "u", []byte("p\x00\xff\""))
	if err != nil {
		t.Fatal(err)
	}
	c, err := credential.Parse(b)
	if err != nil || c.Registry != "r.test:5000" {
		t.Fatalf("%v, %v", c, err)
	}
	if u, p, ok := c.Login(); u != "u" || p != "p\x00\xff\"" || !ok {
		t.Errorf("%q, %q, %t", u, p, ok)
	}
	c.Wipe()
	if u, p, ok := c.Login(); p != "" || ok || len(bytes.Trim(b, "\x00")) > 0 {
		t.Errorf("wiped: %q, %q, %t, %q", u, p, ok, b)
	}
	c.Wipe()
	(*credential.Credential)(nil).Wipe()
}

func TestRefused(t *testing.T) {
	for _, bad := range [][3]string{{"", "u", "p"}, {"r", "", "p"}, {"r", "u", ""}, {"r", "u", strings.Repeat("p", credential.MaxBytes)}} {
		if _, err := credential.Encode(bad[0], bad[1], []byte(bad[2])); err == nil {
			t.Errorf("%.40q is written", bad)
		}
	}
	good, err := credential.Encode("r", "u", []byte("canary"))
	if err != nil {
		t.Fatal(err)
	}
	head := good[:5]
	none := lp.Append(lp.Append(lp.Append(bytes.Clone(head), nil), []byte("u")), []byte("canary"))
	for _, bad := range [][]byte{nil, head, good[:len(good)-1], append(bytes.Clone(good), 0), none, append([]byte("RDTA\x02"), good[5:]...),
		lp.Append(bytes.Clone(head), make([]byte, credential.MaxBytes))} {
		if _, err := credential.Parse(bad); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
}

// What a development build wrote is refused with what to do.
func TestFormerForm(t *testing.T) {
	b, err := json.Marshal(struct {
		Registry string `json:"registry"`
		Username string `json:"username"`
		Password string `json:"password"`
	}{"r", "u", "canary"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := credential.Parse(b); err == nil || strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), "redoubt secret update --registry") {
		t.Errorf("%v", err)
	}
}

// FuzzParse: there is one way to write what is read.
func FuzzParse(f *testing.F) {
	b, err := credential.Encode("r", "u", []byte("p"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := credential.Parse(bytes.Clone(b))
		if err != nil {
			return
		}
		u, p, _ := c.Login()
		if again, err := credential.Encode(c.Registry, u, []byte(p)); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q becomes %q, %v", b, again, err)
		}
	})
}
