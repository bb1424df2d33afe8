package kernel

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// maxLists is how often a list is asked for again that changed while it was read.
const maxLists = 50

// Whole asks for a list of the kernel's until it was read without a change falling
// into it, as one may while interfaces come and go elsewhere. A machine on which
// they never rest is an error.
func Whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range maxLists {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}
