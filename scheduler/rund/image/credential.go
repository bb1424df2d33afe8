package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/distribution/reference"
)

// maxCredential bounds a credential as it is written, in bytes.
const maxCredential = 16 << 10

// Credential is what one registry is shown for one pull. It is written as a JSON
// object of these three texts and nothing else.
type Credential struct {
	// HOST or HOST:PORT, as image names have it; docker.io for names without.
	Registry string `json:"registry"`
	Username string `json:"username"`
	Password string `json:"password"`
}

// ParseCredential reads one. No error quotes what it read.
func ParseCredential(b []byte) (*Credential, error) {
	if len(b) > maxCredential {
		return nil, fmt.Errorf("the credential has %d bytes: at most %d are allowed", len(b), maxCredential)
	}
	malformed := errors.New(`the credential is not of the form {"registry":"HOST[:PORT]","username":"…","password":"…"}`)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	c := &Credential{}
	if err := d.Decode(c); err != nil {
		return nil, malformed
	}
	if _, err := d.Token(); err != io.EOF || c.Registry == "" || c.Username == "" || c.Password == "" {
		return nil, malformed
	}
	return c, nil
}

// of is what the registry of an image is shown: nothing that is another's.
func (c *Credential) of(named reference.Named) (*Credential, error) {
	if c == nil {
		return nil, nil
	}
	if host := reference.Domain(named); host != c.Registry {
		return nil, rejectf("image %s: the credential is for the registry %q, the image is of %q", named, c.Registry, host)
	}
	return c, nil
}

// login answers for the host of the registry, and for no other that it leads to.
func (c *Credential) login(host, asked string) (string, string, error) {
	if c == nil || asked != host {
		return "", "", nil
	}
	return c.Username, c.Password, nil
}
