package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// defaultPCRs is the register that says whether, and with whose keys, the firmware
// checks what it starts.
const defaultPCRs = "7"

// parsePCRs reads registers as people write them: 0,7. "none" is none.
func parsePCRs(text string) (out []uint32, _ error) {
	if text == "none" {
		return nil, nil
	}
	for field := range strings.SplitSeq(text, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(field), 10, 32)
		if err != nil || n >= autolock.Registers || len(out) > 0 && uint32(n) <= out[len(out)-1] {
			return nil, usagef("--pcrs %q: give registers from 0 to %d in ascending order, as 0,7, or none", text, autolock.Registers-1)
		}
		out = append(out, uint32(n))
	}
	return out, nil
}

func pcrsText(pcrs []uint32) string {
	if len(pcrs) == 0 {
		return "no PCRs"
	}
	var out []string
	for _, p := range pcrs {
		out = append(out, strconv.FormatUint(uint64(p), 10))
	}
	return "PCR " + strings.Join(out, ",")
}

// addTPMSlot has every manager seal a seed of its own with its TPM, and tells of
// those that have none.
func (a *app) addTPMSlot(ctx context.Context, f *slotFlags) error {
	pcrs, err := parsePCRs(f.pcrs)
	if err != nil {
		return err
	}
	slot := &keydpb.Slot{Id: ident.New(), Kind: keydpb.SlotKind_SLOT_KIND_TPM, Name: f.name, Pcrs: pcrs}
	if err := autolock.CheckSlot(slot); err != nil {
		return usagef("%v", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx, c, done, err := a.reach(ctx, f.wait)
	if err != nil {
		return err
	}
	defer done()
	stream, err := c.AddSlot(ctx, &controlpb.AddSlotRequest{Slot: slot})
	if err != nil {
		return apiclient.Err(err)
	}
	var last *controlpb.RotateSlotResponse
	recv := func() (*controlpb.RotateSlotResponse, error) {
		r, err := stream.Recv()
		if err == nil {
			last = r
		}
		return r, err
	}
	if err := a.followSlots(cancel, recv, "the new slot", ""); err != nil {
		return err
	}
	lacking := 0
	for _, m := range last.Managers {
		if why := m.Lacks[slot.Id]; why != "" {
			lacking++
			fmt.Fprintf(a.Stderr, "redoubt: %s cannot open itself: %s\n", nodeLabel(m.Name, m.NodeId), printable(why))
		}
	}
	if lacking > 0 {
		return failf(ExitNotConverged, "%d of %d managers stay locked after a restart until people open them; remove the slot and add it again once they have a TPM", lacking, len(last.Managers))
	}
	return nil
}

// testOwnSlot says whether this machine opens a slot by itself.
func (a *app) testOwnSlot(ctx context.Context, k *apiclient.Keyd, name string) error {
	st, err := k.Status(ctx)
	if err != nil {
		return err
	}
	r, err := k.TestOwnSlot(ctx, name)
	if err != nil {
		if apierr.ReasonOf(err) == apierr.ReasonInvalid {
			return err
		}
		return failf(ExitLocked, "slot %s does not open this manager: %w", printable(name), err)
	}
	for _, s := range st.GetSlots().GetSlots() {
		if s.Id == r.SlotId {
			fmt.Fprintf(a.Stdout, "Slot %s, %s, opens this manager by itself (slot epoch %d).\n", printable(autolock.SlotName(s)), kindText(s), r.Epoch)
		}
	}
	return nil
}
