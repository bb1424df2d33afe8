package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

func (a *app) unlockKeyCmd() *cobra.Command {
	c := &cobra.Command{Use: "unlock-key", Short: "Manage what opens the managers after a restart"}
	group(c)
	slot := &cobra.Command{Use: "slot", Short: "Manage the slots that managers are sealed to"}
	group(slot)
	slot.AddCommand(a.slotLsCmd(), a.slotAddCmd(), a.slotRmCmd(), a.slotTestCmd())
	c.AddCommand(a.rotateCmd(), slot)
	return c
}

func (a *app) rotateCmd() *cobra.Command {
	var wait time.Duration
	var replace string
	var force bool
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Replace an operator key",
		Long: `rotate makes a new operator key, prints it, and has every manager re-seal to it.
Where there are several operator keys, --slot says which. It is refused while a
manager is away, unless --force is given: that one opens with the old key once
more when it is back, and then follows. When it has ended well, the old key
opens no manager any more; keep both until then.

Each manager is named when it has re-sealed. Where one goes away meanwhile the
command says so and ends with exit code 3; that manager follows by itself when
it is back, and ` + "`redoubt unlock-key slot ls`" + ` shows when it has.`,
		Example: `  redoubt unlock-key rotate

  # Where managers are slow
  redoubt unlock-key rotate --timeout 2m`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error { return a.runRotate(c.Context(), replace, force, wait) },
	}
	c.Flags().DurationVar(&wait, "timeout", rotateWait, "how long to wait for every manager")
	c.Flags().StringVar(&replace, "slot", "", "which operator key, where there are several")
	c.Flags().BoolVarP(&force, "force", "f", false, "also while a manager is away")
	return c
}

func (a *app) runRotate(ctx context.Context, replace string, force bool, wait time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx, c, done, err := a.reach(ctx, wait)
	if err != nil {
		return err
	}
	defer done()
	if err := checkRotatable(ctx, c, replace, force); err != nil {
		return apiclient.Err(err)
	}
	key, err := a.showNewKey("New operator key")
	if err != nil {
		return err
	}
	defer key.Wipe()
	stream, err := c.RotateSlot(ctx, &controlpb.RotateSlotRequest{Slot: key.Slot(), Replace: replace, Force: force})
	if err != nil {
		return apiclient.Err(err)
	}
	return a.followRotation(cancel, stream.Recv)
}

// followRotation shows which managers have re-sealed to a new key.
func (a *app) followRotation(cancel context.CancelFunc, recv func() (*controlpb.RotateSlotResponse, error)) error {
	last, err := a.follow(cancel, recv, "the new key")
	if err != nil {
		return a.rotateFailed(last, err)
	}
	fmt.Fprintf(a.Stdout, "Every manager is sealed to the new key (epoch %d); the old one opens none of them.\n", last.Epoch)
	return nil
}

// followSlots shows which managers have re-sealed to what. failed is what is to be
// said where nothing was committed.
func (a *app) followSlots(cancel context.CancelFunc, recv func() (*controlpb.RotateSlotResponse, error), what, failed string) error {
	last, err := a.follow(cancel, recv, what)
	switch {
	case err == nil:
		fmt.Fprintf(a.Stdout, "Every manager is sealed to %s (epoch %d).\n", what, last.Epoch)
		return nil
	case last != nil:
		return failf(ExitNotConverged, "the change is in force (epoch %d), but %s opens as before: it follows by itself once it is up; see `redoubt unlock-key slot ls`",
			last.Epoch, strings.Join(behind(last), ", "))
	}
	e := apiclient.Err(err)
	switch apierr.ReasonOf(e) {
	case apierr.ReasonTimeout, apierr.ReasonUnreachable, apierr.ReasonCanceled, apierr.ReasonInternal:
		failed = "whether it is in force `redoubt unlock-key slot ls` says"
	}
	if failed != "" {
		fmt.Fprintln(a.Stderr, "redoubt: "+failed)
	}
	return e
}

// follow shows which managers have re-sealed, as they do. It ends when all have,
// when the time is over, and soon where only managers are left that are away.
func (a *app) follow(cancel context.CancelFunc, recv func() (*controlpb.RotateSlotResponse, error), what string) (last *controlpb.RotateSlotResponse, _ error) {
	told := map[string]bool{}
	away := time.AfterFunc(math.MaxInt64, cancel)
	defer away.Stop()
	for waiting := false; ; {
		r, err := recv()
		if err != nil {
			return last, err
		}
		last = r
		for _, m := range r.Managers {
			if m.Epoch >= r.Epoch && !told[m.NodeId] {
				told[m.NodeId] = true
				fmt.Fprintf(a.Stdout, "%s is sealed to %s.\n", nodeLabel(m.Name, m.NodeId), what)
			}
		}
		if r.Done {
			return last, nil
		}
		hopeless := !slices.ContainsFunc(r.Managers, func(m *controlpb.SlotAck) bool { return m.Reachable && m.Epoch < r.Epoch })
		switch {
		case hopeless && !waiting:
			away.Reset(rotateAway)
		case !hopeless:
			away.Stop()
		}
		waiting = hopeless
	}
}

// behind are the managers that have not re-sealed yet.
func behind(last *controlpb.RotateSlotResponse) (out []string) {
	for _, m := range last.Managers {
		switch name := nodeLabel(m.Name, m.NodeId); {
		case m.Epoch >= last.Epoch:
		case m.Reachable:
			out = append(out, name)
		default:
			out = append(out, name+" (away)")
		}
	}
	return out
}

// checkRotatable refuses before a new key is shown where the server would
// refuse anyway.
func checkRotatable(ctx context.Context, c *api, replace string, force bool) error {
	r, err := c.ListSlots(ctx, &controlpb.ListSlotsRequest{})
	if err != nil {
		return err
	}
	operators := 0
	for _, s := range r.GetSlots().GetSlots() {
		if s.Kind == keydpb.SlotKind_SLOT_KIND_OPERATOR {
			operators++
		}
	}
	switch {
	case operators == 0:
		return apierr.State("shares are replaced by `redoubt unlock-key slot add shamir` and `slot rm`", "there is no operator key to be rotated")
	case operators > 1 && replace == "":
		return apierr.State("say which: --slot NAME (`redoubt unlock-key slot ls`)", "there are %d operator keys", operators)
	}
	if force {
		return nil
	}
	if away := missing(r.Managers, r.GetSlots().GetEpoch()); len(away) > 0 {
		return apierr.State("bring it back or remove it, then rotate", "the key is not rotated while a manager is away (%s)", strings.Join(away, ", "))
	}
	return nil
}

// rotateFailed says how far it got: nothing committed, or some still on the
// old key.
func (a *app) rotateFailed(last *controlpb.RotateSlotResponse, err error) error {
	if last == nil {
		e := apiclient.Err(err)
		switch apierr.ReasonOf(e) {
		case apierr.ReasonTimeout, apierr.ReasonUnreachable, apierr.ReasonCanceled, apierr.ReasonInternal:
			fmt.Fprintln(a.Stderr, "redoubt: keep both keys until `redoubt unlock-key slot ls` says which is in force")
		default:
			fmt.Fprintln(a.Stderr, "redoubt: the key above opens nothing; the old one stays in force")
		}
		return e
	}
	why := ""
	switch e := apierr.Decode(err); {
	case errors.Is(err, io.EOF):
		why = "the leader ended the call; "
	case e.Reason != apierr.ReasonTimeout && e.Reason != apierr.ReasonCanceled:
		why = e.Message + "; "
	}
	return failf(ExitNotConverged, "the new key is in force (epoch %d), but %s still opens with the old one: %sit follows by itself once it is up; keep both keys until `redoubt unlock-key slot ls` shows epoch %d for it, or remove it (redoubt node rm --force)",
		last.Epoch, strings.Join(behind(last), ", "), why, last.Epoch)
}

// missing names the managers that are away or below epoch.
func missing(acks []*controlpb.SlotAck, epoch uint64) []string {
	var names []string
	for _, m := range acks {
		if !m.Reachable || m.Epoch < epoch {
			names = append(names, nodeLabel(m.Name, m.NodeId))
		}
	}
	return names
}

// nodeLabel is what a node is called in a line for a person. The name comes from
// the network.
func nodeLabel(name, id string) string {
	if name = printable(name); name != "" {
		return name
	}
	return printable(shortID(id))
}

func (a *app) slotLsCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the slots, and how far each manager has followed",
		Example: `  redoubt unlock-key slot ls`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.ListSlots(ctx, &controlpb.ListSlotsRequest{})
				if err != nil {
					return err
				}
				return a.printSlots(&out, r)
			})
		},
	}
	out.flags(c, true)
	return c
}

func (a *app) printSlots(out *output, r *controlpb.ListSlotsResponse) error {
	var ids []string
	var slots, managers [][]string
	for _, s := range r.Slots.GetSlots() {
		ids = append(ids, s.Id)
		slots = append(slots, []string{s.Id, printable(autolock.SlotName(s)), kindText(s), time.Unix(s.CreatedAt, 0).UTC().Format(time.RFC3339)})
	}
	for _, m := range r.Managers {
		state := "current"
		if m.Epoch < r.Slots.GetEpoch() {
			state = "behind: opens with the credentials of its epoch"
		}
		for _, s := range r.Slots.GetSlots() {
			if why := m.Lacks[s.Id]; why != "" {
				state += fmt.Sprintf(", does not open by %s: %s", printable(autolock.SlotName(s)), printable(why))
			}
		}
		if !m.Reachable {
			state += ", away"
		}
		key := "not said yet"
		if k := m.StoreKey; k.GetEpoch() != 0 {
			key = strings.TrimSpace(strconv.FormatUint(uint64(k.GetEpoch()), 10) + " " + describeStoreKey(k))
		}
		managers = append(managers, []string{shortID(m.NodeId), m.Name, strconv.FormatUint(m.Epoch, 10), state, key})
	}
	if out.quiet || out.structured() {
		return out.list(a.Stdout, ids, protoJSON(r), nil, nil)
	}
	fmt.Fprintf(a.Stdout, "Epoch %d\n\n", r.Slots.GetEpoch())
	if err := table(a.Stdout, []string{"SLOT", "NAME", "KIND", "CREATED"}, slots); err != nil {
		return err
	}
	fmt.Fprintln(a.Stdout)
	return table(a.Stdout, []string{"MANAGER", "HOSTNAME", "EPOCH", "STATE", "STORE KEY"}, managers)
}
