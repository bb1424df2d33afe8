package image

import (
	"errors"

	"github.com/distribution/reference"

	"github.com/redoubt-cluster/redoubt/secrets/credential"
)

// shown is what the registry of an image is shown: nothing that is another's.
func shown(c *credential.Credential, named reference.Named) (*credential.Credential, error) {
	if c == nil {
		return nil, nil
	}
	if host := reference.Domain(named); host != c.Registry {
		return nil, rejectf("image %s: the credential is for the registry %q, the image is of %q", named, c.Registry, host)
	}
	return c, nil
}

// login answers for the host of the registry, and for no other that it leads to.
func login(c *credential.Credential, host, asked string) (username, password string, err error) {
	if c == nil || asked != host {
		return "", "", nil
	}
	username, password, ok := c.Login()
	if !ok {
		return "", "", errors.New("the credential is not held any more")
	}
	return username, password, nil
}
