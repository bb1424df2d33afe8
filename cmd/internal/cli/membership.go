package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

func (a *app) nodePromoteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "promote NODE...", Short: "Make workers managers",
		Long: `promote makes workers managers: each gets the cluster's keys, sealed to its own
keyd, joins the quorum, and has a vote once it has caught up. Its containers
go on. After its next restart it is locked and needs the operator key.`,
		Example: `  redoubt node promote worker-1`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			err := a.each(c.Context(), names, func(ctx context.Context, api *api, n string) (string, error) {
				r, err := api.PromoteNode(ctx, &controlpb.PromoteNodeRequest{Node: n})
				return r.GetId(), err
			})
			if err == nil {
				fmt.Fprintln(a.Stdout, "A promoted node is locked after its next restart and then needs the operator key; it keeps its tasks unless you drain it.")
			}
			return err
		},
	}
}

func (a *app) nodeDemoteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "demote NODE", Short: "Make a manager a worker",
		Long: `demote makes a manager a worker. It is refused as a manager from that moment and
its containers go on. As it knew the cluster's keys, they are replaced, and so
is the operator key, where there is one: the new one is printed before anything is
done. Other slots stay and are named, and so is the operator key for whoever may not
slot.rotate.`,
		Example: `  redoubt node demote manager-3`,
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, names []string) error {
			return a.leave(c.Context(), func(ctx context.Context, api *api, slot *keydpb.Slot, check bool) (leaveResult, error) {
				r, err := api.DemoteNode(ctx, &controlpb.DemoteNodeRequest{Node: names[0], Slot: slot, Check: check})
				return leaveResult{id: r.GetId(), manager: true, noSlot: r.GetNoSlot(), rotation: r.GetRotation(), known: r.GetKnown()}, err
			})
		},
	}
}

func (a *app) nodeRmCmd() *cobra.Command {
	var force, compromised bool
	c := &cobra.Command{
		Use: "rm [--force] [--compromised] NODE...", Aliases: []string{"remove"}, Short: "Remove nodes; they are refused from that moment",
		Long: `rm removes nodes for ever: every call and connection of theirs is refused from
the moment the command returns, and their tasks move. With a manager the keys
that it knew are replaced, and so is the operator key, where there is one: the new
one is printed before anything is done. Other slots stay and are named, and so is the
operator key for whoever may not slot.rotate, as are the secrets that it could read. Join tokens made before are void then.

--compromised says that the node's keys are in other hands. It implies --force
and tells what they were good for. A manager's keys included the root's: the
command ends with exit code 3 then, and redoubt ca rotate --root comes next.

It ends with 3 as well where the node is removed and what its tasks held could
not be put on the revocation list: the same command with the node's id, which also
takes a node that was removed before, does that. With --compromised it notes that
such a node's keys are in other hands, where that was not known then.`,
		Example: `  redoubt node rm worker-3

  # Though it is up
  redoubt node rm --force worker-3

  redoubt node rm --compromised manager-2`,
		Args: args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			var last error
			for _, n := range names {
				err := a.leave(c.Context(), func(ctx context.Context, api *api, slot *keydpb.Slot, check bool) (leaveResult, error) {
					r, err := api.RemoveNode(ctx, &controlpb.RemoveNodeRequest{Node: n, Force: force, Compromised: compromised, Slot: slot, Check: check})
					return leaveResult{r.GetId(), r.GetManager(), r.GetNoSlot(), r.GetRotation(), r.GetServices(), r.GetKnown(), compromised, r.GetAlready(), r.GetUnlisted()}, err
				})
				if err != nil && last != nil {
					a.printError(last)
				}
				if err != nil {
					last = err
				}
			}
			return last
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "remove a node that is not down")
	c.Flags().BoolVar(&compromised, "compromised", false, "its keys are in other hands")
	return c
}

// leaveResult is what came of a node that leaves, or of asking whether it can.
type leaveResult struct {
	id          string
	manager     bool
	noSlot      bool // no operator key is replaced
	rotation    *controlpb.Rotation
	services    []string
	known       *controlpb.KnownSecrets
	compromised bool
	already     bool // it had left before
	unlisted    bool // what its tasks held is not on the revocation list
}

// leave takes a node, or its role as a manager, out. Where a manager's leaving
// replaces the operator key, the new one is shown after it was checked that it can
// leave, and before it does.
func (a *app) leave(ctx context.Context, do func(_ context.Context, _ *api, _ *keydpb.Slot, check bool) (leaveResult, error)) error {
	return a.with(ctx, func(ctx context.Context, c *api) error {
		r, err := retryMoved(ctx, true, func() (leaveResult, error) { return do(ctx, c, nil, true) })
		if err != nil {
			return err
		}
		var slot *keydpb.Slot
		rotates := r.manager && !r.noSlot
		if rotates {
			may, err := c.CanI(ctx, &controlpb.CanIRequest{Verb: "slot.rotate"})
			if err != nil {
				return err
			}
			if rotates = may.GetAllowed(); !rotates {
				fmt.Fprintln(a.Stderr, "redoubt: the operator key stays, as you may not slot.rotate: who may replaces it with `redoubt unlock-key rotate`, as it may have been given on that machine")
			}
		}
		if rotates {
			key, err := a.showNewKey("New operator key")
			if err != nil {
				return err
			}
			defer key.Wipe()
			slot = key.Slot()
		}
		r, err = retryMoved(ctx, false, func() (leaveResult, error) { return do(ctx, c, slot, false) })
		switch {
		case err != nil && slot != nil:
			return a.leaveFailed(err)
		case err != nil:
			return err
		}
		fmt.Fprintln(a.Stdout, printable(r.id))
		return a.tellLeft(r)
	})
}

// leaveFailed says which key counts now.
func (a *app) leaveFailed(err error) error {
	e := apiclient.Err(err)
	switch apierr.ReasonOf(e) {
	case apierr.ReasonTimeout, apierr.ReasonUnreachable, apierr.ReasonCanceled, apierr.ReasonInternal:
		fmt.Fprintln(a.Stderr, "redoubt: keep both keys until `redoubt unlock-key slot ls` says which is in force")
	default:
		fmt.Fprintln(a.Stderr, "redoubt: the key above opens nothing; the old one stays in force")
	}
	return e
}

// tellLeft says what a node's leaving means besides.
func (a *app) tellLeft(r leaveResult) error {
	note := func(format string, args ...any) { fmt.Fprintf(a.Stdout, format+".\n", args...) }
	if r.already {
		note("It had left before%s", map[bool]string{true: ", and this is what is still on record of that"}[r.compromised])
	}
	if r.compromised {
		what := "No service had tasks there"
		if r.already {
			what = "Which services had tasks there is on no record any more"
		}
		if len(r.services) > 0 {
			what = "Take what these services had in memory, environment and volumes as known: " + printable(strings.Join(r.services, ", "))
		}
		note("%s", what)
	}
	a.tellKnown(r)
	var undone []string
	if t := r.rotation; t != nil {
		if r.already {
			note("The cluster's keys were replaced (keyset epoch %d is in force), and so was the operator key where there was one (slot epoch %d: `redoubt unlock-key slot ls`)", t.KeysetEpoch, t.SlotEpoch)
		} else {
			a.tellRotation(t, r.noSlot)
		}
		if len(t.SlotsKept) > 0 {
			note("These slots stay as they are: %s. Where their keys or shares were given on that machine and it is in other hands, replace them (`redoubt unlock-key slot add`, then `slot rm`)", printable(strings.Join(t.SlotsKept, ", ")))
		}
		if t.External != "" {
			note("The CA at %s knows the key of orders of before, and certifies no worker, nor a node that was demoted, until it is told: give it what `redoubt ca external provisioner` prints, in the place of the one of before, and run `redoubt ca external set` again", printable(t.External))
		}
		if t.RootExposed {
			undone = append(undone, "the root key was on it: replace that too with `redoubt ca rotate --root`; `redoubt status` warns until then")
		}
	}
	if r.unlisted {
		undone = append(undone, "what its tasks held is not on the revocation list yet: run the command again, with "+printable(r.id))
	}
	switch {
	case len(undone) == 0:
		return nil
	case r.rotation != nil:
		return failf(ExitNotConverged, "the node is removed and its keys are replaced, but %s", strings.Join(undone, "; and "))
	}
	return failf(ExitNotConverged, "the node is removed, but %s", strings.Join(undone, "; and "))
}

// tellRotation says what the keys that were replaced mean to others.
func (a *app) tellRotation(t *controlpb.Rotation, noSlot bool) {
	note := func(format string, args ...any) { fmt.Fprintf(a.Stdout, format+".\n", args...) }
	note("The cluster's keys are replaced (keyset epoch %d); nodes renew their certificates now: `redoubt status` lists those that have not", t.KeysetEpoch)
	if t.TokensVoid > 0 {
		note("%d join tokens made before are void: make new ones with `redoubt join-token`", t.TokensVoid)
	} else {
		note("Join tokens made before are void; none was left to use")
	}
	if len(t.Away) > 0 {
		note("These managers are away and open once more with %s: %s", map[bool]string{true: "what opened them before", false: "the old operator key"}[noSlot], printable(strings.Join(t.Away, ", ")))
	}
}

// maxNamed bounds the secrets that are named.
const maxNamed = 50

// tellKnown names the secrets that are known to the node that left.
func (a *app) tellKnown(r leaveResult) {
	secrets, more := r.known.GetSecrets(), int(r.known.GetMore())
	if len(secrets) == 0 {
		return
	}
	if n := len(secrets); n > maxNamed {
		secrets, more = secrets[:maxNamed], more+n-maxNamed
	}
	var names []string
	for _, s := range secrets {
		versions := strings.Trim(fmt.Sprint(s.GetVersions()), "[]")
		names = append(names, fmt.Sprintf("%s (%s)", s.GetName(), strings.ReplaceAll(versions, " ", ", ")))
	}
	text := printable(strings.Join(names, ", "))
	if more > 0 {
		text += fmt.Sprintf(" and %d more (`redoubt secret ls`)", more)
	}
	if r.compromised {
		fmt.Fprintf(a.Stdout, "Change these secrets, which it could read (versions): %s.\n", text)
	} else {
		fmt.Fprintf(a.Stdout, "It could read these secrets (versions); change them unless its disk is wiped: %s.\n", text)
	}
}

const movedRetry, movedTries = time.Second, 10

// retryMoved asks again where a manager that led handed over before it is taken
// out. The answer may be lost with the old leader's connection: a question that
// changes nothing is then asked again as well.
func retryMoved(ctx context.Context, question bool, do func() (leaveResult, error)) (r leaveResult, err error) {
	tick := time.NewTicker(movedRetry)
	defer tick.Stop()
	for range movedTries {
		r, err = do()
		switch reason := apierr.ReasonOf(apiclient.Err(err)); {
		case err == nil, reason != apierr.ReasonNoLeader && !(question && reason == apierr.ReasonUnreachable):
			return r, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return r, err
		}
	}
	return r, err
}
