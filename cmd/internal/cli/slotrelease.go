package cli

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// addReleaseSlot has managers open each other.
func (a *app) addReleaseSlot(ctx context.Context, f *slotFlags) error {
	policy := &keydpb.ReleasePolicy{}
	var err error
	if policy.From, policy.Until, err = autolock.ParseWindow(f.window); err != nil {
		return usagef("--window: %v", err)
	}
	for _, text := range f.networks {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return usagef("--networks %s: this is no network, as 10.0.0.0/8", printable(text))
		}
		policy.Networks = append(policy.Networks, prefix.Masked().String())
	}
	if f.within%time.Second != 0 || f.within <= 0 || f.within/time.Second > math.MaxUint32 {
		return usagef("--within %s: give a time in whole seconds, as 15m", f.within)
	}
	policy.Within = uint32(f.within / time.Second)
	slot := &keydpb.Slot{Id: ident.New(), Kind: keydpb.SlotKind_SLOT_KIND_RELEASE, Name: f.name, Release: policy}
	if err := autolock.CheckSlot(slot); err != nil {
		return usagef("%v", err)
	}
	err = a.changeSlots(ctx, f.wait, "the new slot", func(ctx context.Context, c *api) (func() (*controlpb.RotateSlotResponse, error), error) {
		stream, err := c.AddSlot(ctx, &controlpb.AddSlotRequest{Slot: slot})
		if err != nil {
			return nil, err
		}
		return stream.Recv, nil
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.Stdout, "A manager that comes back is opened by the others, %s. Whoever takes a manager's disk and its address there and then has it open once.\n", autolock.PolicyText(policy))
	return err
}
