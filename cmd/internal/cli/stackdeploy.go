package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/stack"
)

// deployFlags are those of stack deploy.
type deployFlags struct {
	files      composeFlags
	wait       waitFlags
	sign       signFlags
	out        output
	dry, prune bool
	rollback   bool
}

func (a *app) stackDeployCmd() *cobra.Command {
	var d deployFlags
	c := &cobra.Command{
		Use: "deploy [flags] STACK", Aliases: []string{"up"}, Short: "Have the cluster run what compose files describe",
		Long: `deploy compares what compose files describe with what the cluster has of the stack,
and makes, changes or leaves each network, volume, secret, config, policy and service; --dry-run
shows that and does nothing. What is as it should be is not touched. Then it waits until
all services of the files run (--detach does not), and ends with 3 where they do not in
time; --rollback-on-failure then takes back what it changed.

A secret or config whose content is another gets a new version, which running tasks get
in place (x-redoubt-on-update says what else happens). What the stack has and the files
have not stays, and is said; --prune removes it.

` + composeHelp,
		Example: `  redoubt stack deploy -c compose.yml shop
  redoubt stack deploy -c compose.yml -c production.yml --prune --rollback-on-failure shop
  redoubt stack deploy -c compose.yml --dry-run --format json shop`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, names []string) error { return a.runStackDeploy(c.Context(), &d, names[0]) },
	}
	d.files.add(c)
	f := c.Flags()
	f.BoolVar(&d.dry, "dry-run", false, "show what would be done, and do nothing")
	f.BoolVar(&d.prune, "prune", false, "remove what the stack has and the files have not")
	f.BoolVar(&d.rollback, "rollback-on-failure", false, "where it does not converge, take back what was changed")
	f.Var(&d.out.format, "format", "of --dry-run: table, json, or a Go template; see redoubt help formats")
	fixed(c, "format", "table", "json")
	f.StringVar(&d.sign.with, "sign-with", "", "sign the services by this deployer's key (redoubt lock key ls)")
	f.StringVar(&d.sign.chain, "sign-chain", "", "`file` of the chain that names the key (default lock/chain)")
	f.DurationVar(&d.sign.valid, "sign-for", 0, "how long the signatures are good (default: until a link retires them)")
	f.BoolVar(&d.sign.asIs, "sign-as-is", false, "sign what the managers say services are, though nobody has signed that")
	_ = c.RegisterFlagCompletionFunc("sign-with", a.deployerNames) // fails only where a flag gets two
	d.wait.add(f)
	return c
}

func (a *app) runStackDeploy(ctx context.Context, d *deployFlags, name string) error {
	switch err := stack.CheckName(name); {
	case err != nil:
		return usagef("%v", err)
	case d.rollback && d.wait.detach:
		return usagef("--rollback-on-failure and --detach exclude each other: nobody waits to see it fail")
	case d.out.structured() && !d.dry:
		return usagef("--format is for --dry-run")
	}
	r, err := a.readCompose(ctx, &d.files, name)
	if err != nil {
		return err
	}
	want, err := r.Stack()
	a.warn(r.Warnings)
	if err != nil {
		return a.composeError(err)
	}
	defer want.Wipe()
	ap := &stack.Applier{Seal: a.sealVersion, Done: a.stepDone}
	if len(want.Secrets) > 0 {
		if ap.Key, err = a.stackKey(); err != nil {
			return err
		}
	}
	if d.dry {
		return a.with(ctx, func(ctx context.Context, c *api) error {
			plan, err := a.planStack(ctx, c, want, d, ap.Key)
			if err != nil {
				return err
			}
			return a.printPlan(&d.out, plan)
		})
	}
	if ap.Signer, err = a.stackSigner(&d.sign, want); err != nil {
		return err
	}
	return a.within(ctx, stackTimeout+d.wait.timeout, func(bounded context.Context, c *api) error {
		ap.API = c
		plan, err := a.planStack(bounded, c, want, d, ap.Key)
		if err != nil {
			return err
		}
		return a.deployPlan(bounded, ap, plan, d)
	})
}

func (a *app) planStack(ctx context.Context, c *api, want *stack.Stack, d *deployFlags, key stack.FingerprintKey) (*stack.Plan, error) {
	have, err := stack.Read(ctx, c, want)
	if err != nil {
		return nil, err
	}
	plan, err := stack.Make(want, have, stack.Options{Prune: d.prune, Sign: d.sign.with != "", Key: key})
	if err != nil {
		return nil, a.stackErrors(err, "nothing was done")
	}
	return plan, nil
}

// stackErrors is one line; where err is of several, each has a line before it.
func (a *app) stackErrors(err error, state string) error {
	many, ok := err.(interface{ Unwrap() []error })
	if !ok || len(many.Unwrap()) == 1 {
		return failf(exitCode(err), "%v: %s", err, state)
	}
	for _, e := range many.Unwrap() {
		fmt.Fprintf(a.Stderr, "redoubt: %s\n", printable(e.Error()))
	}
	return failf(exitCode(err), "there are %d errors: %s", len(many.Unwrap()), state)
}

// sealVersion makes a version of a secret, of that id.
func (a *app) sealVersion(ctx context.Context, secretID, kind, versionID string, data []byte) (v *controlpb.NewVersion, err error) {
	err = a.withKeyd(ctx, func(ctx context.Context, k *apiclient.Keyd) error {
		to, err := k.Recipient(ctx)
		if err != nil {
			return err
		}
		v, err = to.SealVersion(secretID, versionID, kind, data)
		return err
	})
	return v, err
}

var doneWords = map[stack.Action]string{
	stack.Create: "created", stack.Update: "updated", stack.Replace: "replaced", stack.Remove: "removed",
}

func (a *app) stepDone(s stack.Step, remarks []string) {
	fmt.Fprintf(a.Stdout, "%s %s: %s\n", s.Kind, printable(s.Name), doneWords[s.Action])
	for _, r := range remarks {
		fmt.Fprintf(a.Stderr, "redoubt: warning: %s %s: %s\n", s.Kind, printable(s.Name), printable(r))
	}
}

// printPlan shows what would be done.
func (a *app) printPlan(out *output, p *stack.Plan) error {
	if out.structured() {
		return out.objects(a.Stdout, p)
	}
	var rows [][]string
	for _, s := range p.Steps {
		rows = append(rows, []string{string(s.Action), string(s.Kind), s.Name, strings.Join(s.Changes, "; ")})
	}
	return table(a.Stdout, []string{"ACTION", "KIND", "NAME", "CHANGES"}, rows)
}

// deployPlan does what is planned, waits, and takes it back or clears away after it.
func (a *app) deployPlan(ctx context.Context, ap *stack.Applier, p *stack.Plan, d *deployFlags) error {
	applied, err := ap.Apply(ctx, p)
	state := "what was done before is listed, and stays; the same command goes on from there"
	if err != nil {
		if d.rollback && ctx.Err() == nil {
			state = a.takeBack(ctx, ap, applied)
		}
		return a.stackErrors(err, state)
	}
	for _, s := range p.Steps {
		if s.Action == stack.Leave {
			fmt.Fprintf(a.Stderr, "redoubt: warning: %s %s is not in the files and stays: --prune removes it\n", s.Kind, printable(s.Name))
		}
	}
	if !p.Changes() {
		fmt.Fprintln(a.Stdout, "all is as the files say")
	}
	begun := time.Now()
	if err := a.convergeStack(ctx, p.Running(applied), applied, d.wait); err != nil {
		if d.rollback && ctx.Err() == nil && exitCode(err) == ExitNotConverged {
			return failf(ExitNotConverged, "%v: %s", err, a.takeBack(ctx, ap, applied))
		}
		return err
	}
	if !d.prune || !p.Removes() {
		return nil
	}
	have, err := stack.Read(ctx, ap.API, nil)
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, max(d.wait.timeout-time.Since(begun), callTimeout))
	defer cancel()
	left, err := ap.Remove(wait, p, have, !d.wait.detach)
	return a.sayLeft(left, err)
}

// takeBack undoes what was applied, and says how that went.
func (a *app) takeBack(ctx context.Context, ap *stack.Applier, applied *stack.Applied) string {
	did, err := ap.Undo(ctx, applied)
	for _, text := range did {
		fmt.Fprintf(a.Stdout, "%s\n", printable(text))
	}
	switch {
	case err != nil:
		return "not all of it could be taken back: " + strings.Join(strings.Split(err.Error(), "\n"), "; ")
	case len(did) == 0:
		return "there was nothing to take back"
	}
	return "it was taken back"
}

// sayLeft tells of what could not be removed.
func (a *app) sayLeft(left []stack.Stay, err error) error {
	busy := 0
	for _, l := range left {
		fmt.Fprintf(a.Stderr, "redoubt: warning: %s %s stays: %s\n", l.Step.Kind, printable(l.Step.Name), printable(l.Why))
		if l.Busy {
			busy++
		}
	}
	if err != nil {
		return failf(exitCode(err), "%w", err)
	}
	if busy > 0 {
		return failf(ExitNotConverged, "%s could not be removed yet: run it again when the tasks have stopped", plural(busy, "object"))
	}
	return nil
}

// convergeStack waits for services by name, all at once.
func (a *app) convergeStack(ctx context.Context, services map[string]string, applied *stack.Applied, w waitFlags) error {
	if w.detach || len(services) == 0 {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	updated := map[string]bool{}
	for _, s := range applied.Services {
		updated[s.ID] = s.Updated()
	}
	errs := a.convergeAll(wait, services, updated, w)
	switch {
	case len(errs) == 0:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case len(errs) == 1:
		return errs[0]
	}
	code := ExitError
	for _, err := range errs {
		fmt.Fprintf(a.Stderr, "redoubt: %s\n", printable(err.Error()))
		if exitCode(err) == ExitNotConverged {
			code = ExitNotConverged
		}
	}
	return failf(code, "%d of %d services have not converged", len(errs), len(services))
}
