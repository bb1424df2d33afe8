package tpm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// errForm is what a structure is refused with that is not the TPM's own form.
var errForm = errors.New("malformed TPM structure")

// unmarshal decodes a structure in its one form: what it would be encoded to
// again is what was sent, to the last byte.
func unmarshal[T tpm2.Marshallable, P interface {
	*T
	tpm2.Unmarshallable
}](b []byte) (_ *T, err error) {
	// The library reads by reflection; what no test has found yet must not end
	// the process that holds the keys.
	defer func() {
		if p := recover(); p != nil {
			err = errForm
		}
	}()
	v, err := tpm2.Unmarshal[T, P](b)
	if err != nil {
		return nil, errForm
	}
	if !bytes.Equal(tpm2.Marshal(*v), b) {
		return nil, errForm
	}
	return v, nil
}

// parsePublic decodes a public area and returns it with its name.
func parsePublic(b []byte) (*tpm2.TPMTPublic, *tpm2.TPM2BName, error) {
	if len(b) > MaxPublic {
		return nil, nil, fmt.Errorf("%w: a public area of %d bytes", errForm, len(b))
	}
	p, err := unmarshal[tpm2.TPMTPublic](b)
	if err != nil {
		return nil, nil, err
	}
	if p.NameAlg != tpm2.TPMAlgSHA256 {
		return nil, nil, fmt.Errorf("%w: a key that is not named by SHA-256", errForm)
	}
	name, err := tpm2.ObjectName(p)
	return p, name, err
}
