package tpm

import (
	"bytes"
	"testing"

	"github.com/redoubt-cluster/redoubt/internal/tpm/tpmtest"
)

// Zeros at an end of an authorization value are cut off by some; the hash that keeps
// uses apart has one there now and then.
func TestAuthWithZeros(t *testing.T) {
	p, err := Open(tpmtest.New(t).Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	auth := append([]byte{0, 0}, bytes.Repeat([]byte{7}, 28)...)
	auth = append(auth, 0, 0)
	for _, pcrs := range [][]int{nil, {0, 7}} {
		blob, err := p.Seal(t.Context(), pcrs, []byte("secret"), auth)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Unseal(t.Context(), blob, auth); err != nil || string(got) != "secret" {
			t.Errorf("%v: %q, %v", pcrs, got, err)
		}
	}
}
