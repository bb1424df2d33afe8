package erase_test

import (
	"testing"

	"github.com/redoubt-cluster/redoubt/internal/erase"
)

// A panic in f is f's caller's, and Do may be called within Do.
func TestDo(t *testing.T) {
	ran := 0
	erase.Do(func() { erase.Do(func() { ran++ }); ran++ })
	if ran != 2 {
		t.Errorf("ran %d times", ran)
	}
	defer func() {
		if recover() != "told" {
			t.Error("the panic was lost")
		}
		erase.Now()
	}()
	erase.Do(func() { panic("told") })
}
