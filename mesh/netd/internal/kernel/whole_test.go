package kernel

import (
	"errors"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestWhole(t *testing.T) {
	asked, broken := 0, errors.New("broken")
	list := func(interrupted int, err error) func() ([]int, error) {
		asked = 0
		return func() ([]int, error) {
			if asked++; asked <= interrupted {
				return []int{1}, netlink.ErrDumpInterrupted
			}
			return []int{1, 2}, err
		}
	}
	if all, err := Whole(list(3, nil)); err != nil || asked != 4 || !slices.Equal(all, []int{1, 2}) {
		t.Errorf("%v, %v after %d", all, err, asked)
	}
	if _, err := Whole(list(0, broken)); !errors.Is(err, broken) || asked != 1 {
		t.Errorf("%v after %d", err, asked)
	}
	if _, err := Whole(list(maxLists, nil)); !errors.Is(err, netlink.ErrDumpInterrupted) || asked != maxLists {
		t.Errorf("%v after %d", err, asked)
	}
}
