package cli

import (
	"context"
	"fmt"
	"slices"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

func kindText(s *keydpb.Slot) string {
	kind := enumName(s.Kind, "SLOT_KIND_")
	if s.Kind == keydpb.SlotKind_SLOT_KIND_SHAMIR {
		return fmt.Sprintf("shares (%d of %d)", s.Threshold, len(s.Shares))
	}
	if s.Kind == keydpb.SlotKind_SLOT_KIND_TPM {
		return fmt.Sprintf("tpm (%s)", pcrsText(s.Pcrs))
	}
	if s.Kind == keydpb.SlotKind_SLOT_KIND_RELEASE {
		return fmt.Sprintf("release (%s)", autolock.PolicyText(s.Release))
	}
	return kind
}

// slotFlags are those of slot add.
type slotFlags struct {
	name              string
	shares, threshold int
	age               []string
	out               string
	pcrs              string
	window            string
	networks          []string
	within            time.Duration
	wait              time.Duration
}

func (a *app) slotAddCmd() *cobra.Command {
	var f slotFlags
	c := &cobra.Command{
		Use:   "add operator|shamir|tpm|release [--name NAME] [--shares N --threshold M [--age RECIPIENT...]] [--pcrs LIST] [--window FROM-UNTIL] [--networks CIDR...] [--within TIME]",
		Short: "Add a key, or shares, that open every manager",
		Long: `add makes another way to open every manager. The keys that are there already go
on opening them, and none of them is needed for it.

operator makes one more operator key, of a name of its own, and prints it once.
shamir makes shares of a key that nobody has: as many as --threshold says open a
manager, fewer tell nothing. Each is printed once, or with --age sealed to one
officer and written to a file of its own, so that nobody else ever sees it.

tpm has each manager open itself when it starts: its TPM 2.0 gives back a seed of
its own, on that machine alone and as long as the registers of --pcrs are what
they are now. Nobody is asked then; whoever has the whole machine, and starts it
as it is, has it open. A machine without a TPM (keyd.tpm in config.yaml) goes
without the slot and is named. After an update of firmware or boot loader that
changes the registers, the manager is locked once: open it with another slot,
then remove this one and add it again.

release has the managers that are open open one that comes back, once for each
start, and tells of it in an event. Its own disk alone opens nothing. --window says
when, in UTC, and --networks from where; one that was not heard for longer than
--within is not opened, and neither is a removed one. Whoever has a manager's disk
and takes its address, there and then, is opened once: give all three, and prefer
tpm where there is one.`,
		Example: `  redoubt unlock-key slot add operator --name night-shift

  redoubt unlock-key slot add shamir --shares 5 --threshold 3

  # Managers reboot unattended, while firmware and Secure Boot are what they are
  redoubt unlock-key slot add tpm --pcrs 0,7

  # Managers that reboot at night are opened by the others
  redoubt unlock-key slot add release --window 02:00-05:00 --networks 10.1.0.0/16

  # Sealed to each officer; send the files
  redoubt unlock-key slot add shamir --name officers --threshold 2 --age age1… --age age1… --age age1… --out shares`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, got []string) error {
			if err := checkSlotFlags(c.Flags(), got[0]); err != nil {
				return err
			}
			return a.runSlotAdd(c.Context(), got[0], &f)
		},
	}
	c.Flags().StringVar(&f.name, "name", "", "what the slot is called")
	c.Flags().IntVar(&f.shares, "shares", 0, "how many shares are made")
	c.Flags().IntVar(&f.threshold, "threshold", 0, "how many of them open a manager")
	c.Flags().StringSliceVar(&f.age, "age", nil, "seal each share to one of these age recipients (age1…)")
	c.Flags().StringVar(&f.out, "out", ".", "directory for sealed shares")
	c.Flags().StringVar(&f.pcrs, "pcrs", defaultPCRs, `registers that a TPM seals to, as 0,7, or "none"`)
	c.Flags().StringVar(&f.window, "window", "", "when managers release each other, in UTC, as 02:00-05:00 (at any time)")
	c.Flags().StringSliceVar(&f.networks, "networks", nil, "networks in which managers release each other, as 10.1.0.0/16 (any)")
	c.Flags().DurationVar(&f.within, "within", autolock.DefaultWithin, "how long after it was last heard a manager is released")
	c.Flags().DurationVar(&f.wait, "timeout", rotateWait, "how long to wait for every manager")
	c.ValidArgs = slotKinds
	return c
}

// slotKinds are those that can be added.
var slotKinds = []string{"operator", "shamir", "tpm", "release"}

// slotFlagOf is the kind of slot that a flag of slot add is for; of the others, all.
var slotFlagOf = map[string]string{"shares": "shamir", "threshold": "shamir", "age": "shamir", "out": "shamir", "pcrs": "tpm", "window": "release", "networks": "release", "within": "release"}

// checkSlotFlags refuses what would be ignored.
func checkSlotFlags(flags *pflag.FlagSet, kind string) (err error) {
	if !slices.Contains(slotKinds, kind) {
		return usagef("a slot is added of kind operator, shamir, tpm or release, not %q", kind)
	}
	flags.Visit(func(f *pflag.Flag) {
		if of := slotFlagOf[f.Name]; err == nil && of != "" && of != kind {
			err = usagef("--%s is for %s, not for %s", f.Name, of, kind)
		}
	})
	if err == nil && flags.Changed("out") && !flags.Changed("age") {
		err = usagef("--out is for shares that are sealed: give --age")
	}
	return err
}

func (a *app) runSlotAdd(ctx context.Context, kind string, f *slotFlags) error {
	var recipients []age.Recipient
	switch {
	case kind == "tpm" || kind == "release":
		if f.name == "" {
			f.name = kind
		}
		if kind == "release" {
			return a.addReleaseSlot(ctx, f)
		}
		return a.addTPMSlot(ctx, f)
	case kind == "operator" && f.name == "":
		return usagef("--name is needed: what is the key to be called?")
	case kind == "shamir":
		if f.name == "" {
			f.name = "shamir"
		}
		if len(f.age) > 0 && f.shares == 0 {
			f.shares = len(f.age)
		}
		switch {
		case f.shares < autolock.MinThreshold || f.shares > autolock.MaxShares || f.threshold < autolock.MinThreshold || f.threshold > f.shares:
			return usagef("--shares %d --threshold %d: give 2 to %d shares, and a threshold of 2 to as many", f.shares, f.threshold, autolock.MaxShares)
		case len(f.age) > 0 && len(f.age) != f.shares:
			return usagef("%d shares and %d age recipients: each share is sealed to one", f.shares, len(f.age))
		}
		var err error
		if recipients, err = ageRecipients(f.age); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx, c, done, err := a.reach(ctx, f.wait)
	if err != nil {
		return err
	}
	defer done()
	r, err := c.ListSlots(ctx, &controlpb.ListSlotsRequest{})
	if err != nil {
		return apiclient.Err(err)
	}
	for _, s := range r.GetSlots().GetSlots() {
		if autolock.SlotName(s) == f.name { // before anything is shown
			return apierr.Exists("choose another name (--name)", "a slot %s exists already", printable(f.name))
		}
	}
	slot, err := a.makeSlot(ctx, c, kind, f, r.GetSlots().GetEpoch()+1, recipients)
	if err != nil {
		return err
	}
	stream, err := c.AddSlot(ctx, &controlpb.AddSlotRequest{Slot: slot})
	if err != nil {
		return apiclient.Err(err)
	}
	return a.followSlots(cancel, stream.Recv, "the new slot", "what was made above opens nothing: throw it away")
}

// makeSlot makes the secret of a slot and shows it before anything could commit it.
func (a *app) makeSlot(ctx context.Context, c *api, kind string, f *slotFlags, epoch uint64, recipients []age.Recipient) (*keydpb.Slot, error) {
	if kind == "operator" {
		key, err := a.showNewKey("Operator key " + f.name)
		if err != nil {
			return nil, err
		}
		defer key.Wipe()
		slot := key.Slot()
		slot.Name = f.name
		return slot, autolock.CheckSlot(slot)
	}
	local, err := c.LocalStatus(ctx, &controlpb.LocalStatusRequest{})
	if err != nil {
		return nil, apiclient.Err(err)
	}
	slot, shares, err := autolock.Split(local.ClusterId, f.name, epoch, f.shares, f.threshold)
	if err == nil {
		err = autolock.CheckSlot(slot)
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		for i := range shares {
			shares[i].Wipe()
		}
	}()
	if len(recipients) > 0 {
		return slot, a.writeShares(f, shares, recipients)
	}
	_, err = fmt.Fprintf(a.Stdout, "Shares of slot %s (shown this once; each to one person, %d of them open a manager):\n\n", f.name, f.threshold)
	for i := range shares {
		if err == nil {
			_, err = fmt.Fprintf(a.Stdout, "Share %d of %d:\n\n    %s\n\n", i+1, len(shares), shares[i].String())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the shares could not be shown, so nothing was done: %w", err)
	}
	return slot, nil
}

func (a *app) slotRmCmd() *cobra.Command {
	var force bool
	var wait time.Duration
	c := &cobra.Command{
		Use: "rm SLOT", Aliases: []string{"remove"}, Short: "Remove a slot: what it is of opens no manager any more",
		Long: `rm takes a slot away: every manager gets a new key-encryption key, sealed to the
slots that are left. The last one that people open is not removed. It is refused
while a manager is away, unless --force is given: that one opens with what was
removed once more when it is back, and then follows.`,
		Example: `  redoubt unlock-key slot rm night-shift`,
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, got []string) error {
			return a.changeSlots(c.Context(), wait, "the slots that are left", func(ctx context.Context, c *api) (func() (*controlpb.RotateSlotResponse, error), error) {
				stream, err := c.RemoveSlot(ctx, &controlpb.RemoveSlotRequest{Slot: got[0], Force: force})
				if err != nil {
					return nil, err
				}
				return stream.Recv, nil
			})
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "also while a manager is away")
	c.Flags().DurationVar(&wait, "timeout", rotateWait, "how long to wait for every manager")
	return c
}

func (a *app) slotTestCmd() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "test [SLOT] [--key-file FILE]", Short: "See whether a key, shares or this machine open a slot, without using them",
		Long: `test says of an operator key which slot of this manager it opens, and of each
share whether it is one of its slot's. They are asked for without echo, or read
from stdin or --key-file, one a line. With SLOT, one that machines open by
themselves, it says whether this one does, and if not why. Nothing changes,
locked or not.`,
		Example: `  redoubt unlock-key slot test

  # Would this manager open itself if it restarted now?
  redoubt unlock-key slot test tpm`,
		Args: args(0, 1),
		RunE: func(c *cobra.Command, got []string) error {
			if len(got) == 1 && c.Flags().Changed("key-file") {
				return usagef("--key-file is for a key or shares, and slot %s for what machines open by themselves: give one of them", printable(got[0]))
			}
			return a.withKeyd(c.Context(), func(ctx context.Context, k *apiclient.Keyd) error {
				if len(got) == 1 {
					return a.testOwnSlot(ctx, k, got[0])
				}
				return a.runSlotTest(ctx, k, file)
			})
		},
	}
	c.Flags().StringVar(&file, "key-file", "", `file with the operator key or shares ("-": stdin, the default)`)
	return c
}

func (a *app) runSlotTest(ctx context.Context, k *apiclient.Keyd, file string) error {
	st, err := k.Status(ctx)
	if err != nil {
		return err
	}
	in, err := a.secretLines(file, "operator key or share")
	if err != nil {
		return err
	}
	defer in.Close()
	tested := 0
	for {
		text, err := in.next()
		if err != nil {
			return err
		}
		if text == "" {
			break
		}
		tested++
		var r *keydpb.TestSlotResponse
		if isShare(text) {
			share, err := autolock.ParseShare(text)
			if err != nil {
				return failf(ExitLocked, "%w", err)
			}
			r, err = k.TestSlot(ctx, nil, &share)
			share.Wipe()
			if err != nil {
				return failf(ExitLocked, "%w", err)
			}
		} else {
			key, err := autolock.ParseOperatorKey(text)
			if err != nil {
				return failf(ExitLocked, "%w", err)
			}
			r, err = k.TestSlot(ctx, &key, nil)
			key.Wipe()
			if err != nil {
				return failf(ExitLocked, "%w", err)
			}
		}
		for _, s := range st.GetSlots().GetSlots() {
			switch {
			case s.Id != r.SlotId:
			case r.Number > 0:
				fmt.Fprintf(a.Stdout, "Share %d of %d of slot %s is good; %d of them open this manager (slot epoch %d).\n", r.Number, len(s.Shares), printable(autolock.SlotName(s)), s.Threshold, r.Epoch)
			default:
				fmt.Fprintf(a.Stdout, "The key of slot %s opens this manager (slot epoch %d).\n", printable(autolock.SlotName(s)), r.Epoch)
			}
		}
		if in.in != nil && !isShare(text) {
			break
		}
	}
	if tested == 0 {
		return errNothingGiven
	}
	return nil
}
