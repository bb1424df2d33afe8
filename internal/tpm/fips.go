package tpm

import (
	"crypto/fips140"
	"errors"
)

// ErrFIPS is why a process in FIPS mode neither speaks to a TPM nor challenges one.
var ErrFIPS = errors.New("TPMs are spoken to by AES-CFB, which is no part of Go's FIPS 140-3 module: not on a node in FIPS mode")

func allowed() error {
	if fips140.Enforced() {
		return ErrFIPS
	}
	return nil
}
