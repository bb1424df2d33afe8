package tpm

import (
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// Leave leaves an object in a TPM, as a process does that is killed.
func Leave(t testing.TB, path string) {
	t.Helper()
	p, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.primary(tpm2.TPMRHOwner, akTemplate); err != nil {
		t.Fatal(err)
	}
}
