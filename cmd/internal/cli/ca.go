package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
)

func (a *app) caCmd() *cobra.Command {
	c := &cobra.Command{Use: "ca", Short: "See and replace the certificate authorities"}
	group(c)
	c.AddCommand(a.caRotateCmd(), a.caInspectCmd(), a.caExternalCmd())
	return c
}

// caRotation are the flags of `ca rotate`.
type caRotation struct {
	root, abort, watch bool
	expiry             time.Duration
	detach             bool
	wait               time.Duration
}

func (a *app) caRotateCmd() *cobra.Command {
	var f caRotation
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the issuing CA, or the root",
		Long: `rotate puts a new issuing CA in force and has every node take its certificate
of it. The cluster does that by itself every 30 days; join tokens carry on.

With --root the root is replaced as well: first every node learns to trust both
roots, then all take certificates below the new one, then the old one goes. Join
tokens of before are void from the beginning. Connections go on. Nodes that are
away are not waited for: they follow when they are back. The cluster goes on with
it whatever becomes of this command; --watch shows how far it is, and --abort
gives it up as long as the old root is there. It is refused while an external CA is
to sign workers and fails.

--cert-expiry sets for how long workers' certificates are good from now on, one
hour to 90 days, whatever keyd.worker_leaf_lifetime says on a manager; alone it
rotates nothing.

Where nodes that are connected do not follow within --timeout the command says
which, and ends with exit code 3.`,
		Example: `  redoubt ca rotate
  redoubt ca rotate --root
  redoubt ca rotate --watch
  redoubt ca rotate --abort
  redoubt ca rotate --cert-expiry 12h`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error { return a.runCARotate(c.Context(), f) },
	}
	c.Flags().BoolVar(&f.root, "root", false, "replace the root, too")
	c.Flags().BoolVar(&f.abort, "abort", false, "give the replacement of the root up")
	c.Flags().BoolVar(&f.watch, "watch", false, "begin nothing: show how far it is")
	c.Flags().BoolVarP(&f.detach, "detach", "d", false, "do not wait for nodes")
	c.Flags().DurationVar(&f.expiry, "cert-expiry", 0, "for how long workers' certificates are good")
	c.Flags().DurationVar(&f.wait, "timeout", defaultWait, "how long to wait for nodes")
	return c
}

func (a *app) runCARotate(ctx context.Context, f caRotation) error {
	switch {
	case f.abort && f.watch, f.abort && f.root, f.watch && f.root:
		return usagef("--root, --abort and --watch: give one of them")
	case (f.abort || f.watch) && f.expiry != 0:
		return usagef("--cert-expiry does not go with --abort or --watch")
	case f.watch && f.detach:
		return usagef("--watch and --detach: give one of them")
	}
	if f.expiry < 0 || f.expiry%time.Second != 0 || f.expiry > 366*24*time.Hour {
		return usagef("--cert-expiry %v: give hours, 1h to 2160h", f.expiry)
	}
	ctx, c, done, err := a.reach(ctx, f.wait)
	if err != nil {
		return err
	}
	defer done()
	switch {
	case f.watch:
	case f.abort:
		if _, err := c.AbortCA(ctx, &controlpb.AbortCARequest{}); err != nil {
			return apiclient.Err(err)
		}
		fmt.Fprintln(a.Stdout, "The replacement of the root is given up; the old root stays.")
	default:
		only := f.expiry != 0 && !f.root
		if err := a.beginRotation(ctx, c, f, only); err != nil || only {
			return err
		}
	}
	if f.detach {
		return nil
	}
	return a.followCA(ctx, c, f)
}

func (a *app) beginRotation(ctx context.Context, c *api, f caRotation, only bool) error {
	r, err := c.RotateCA(ctx, &controlpb.RotateCARequest{Root: f.root, WorkerLeafSeconds: uint32(f.expiry / time.Second), OnlyLife: only})
	if err != nil {
		return apiclient.Err(err)
	}
	switch {
	case only:
		fmt.Fprintf(a.Stdout, "Workers' certificates are good for %v from their next renewal on.\n", f.expiry)
		return nil
	case f.root:
		fmt.Fprintln(a.Stdout, "The root is being replaced. This command may be ended: the cluster goes on (redoubt ca rotate --watch).")
		if r.TokensVoid > 0 {
			fmt.Fprintf(a.Stdout, "%s became void: make new ones (redoubt join-token worker).\n", plural(int(r.TokensVoid), "join token"))
		} else {
			fmt.Fprintln(a.Stdout, "No join token became void.")
		}
	default:
		fmt.Fprintf(a.Stdout, "A new issuing CA is in force (keyset epoch %d). Join tokens carry on.\n", r.KeysetEpoch)
	}
	if len(r.Away) > 0 {
		fmt.Fprintf(a.Stdout, "Away, and not waited for: %s.\n", a.nodeList(r.Away))
	}
	return nil
}

// maxListed is how many names one line has.
const maxListed = 20

func (a *app) nodeList(names []string) string {
	shown := names[:min(len(names), maxListed)]
	var out []string
	for _, n := range shown {
		out = append(out, printable(n))
	}
	s := strings.Join(out, ", ")
	if more := len(names) - len(shown); more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}

// caProgress is what was heard of a rotation so far.
type caProgress struct {
	nodes map[string]*controlpb.CANode
	last  *controlpb.WatchCAResponse
	said  map[string]bool // what a node did
}

var phaseLines = map[pkipb.Rotation_Phase]string{
	pkipb.Rotation_PHASE_DISTRIBUTE: "Nodes learn to trust both roots",
	pkipb.Rotation_PHASE_REISSUE:    "Nodes take certificates below the new root",
	pkipb.Rotation_PHASE_RETURN:     "Nodes take certificates below the old root again",
}

func (a *app) followCA(ctx context.Context, c *api, f caRotation) error {
	p := &caProgress{nodes: map[string]*controlpb.CANode{}, said: map[string]bool{}}
	for {
		stream, err := c.WatchCA(ctx, &controlpb.WatchCARequest{})
		if err == nil {
			err = a.showCA(p, stream.Recv)
		}
		switch {
		case err == nil:
			return a.endCA(p, f)
		case ctx.Err() != nil, p.last != nil && apierr.ReasonOf(apiclient.Err(err)) == apierr.ReasonTimeout:
			return a.cutCA(p, f)
		case apierr.ReasonOf(apiclient.Err(err)) != apierr.ReasonUnreachable && apierr.ReasonOf(apiclient.Err(err)) != apierr.ReasonNoLeader && !errors.Is(err, io.EOF):
			return apiclient.Err(err)
		}
		// Another manager leads, and goes on with it.
		select {
		case <-time.After(caRetry):
		case <-ctx.Done():
			return a.cutCA(p, f)
		}
	}
}

// showCA shows what comes until it is done, with a line for each node that did
// its part.
func (a *app) showCA(p *caProgress, recv func() (*controlpb.WatchCAResponse, error)) error {
	for {
		m, err := recv()
		if err != nil {
			return err
		}
		if p.last == nil || p.last.Phase != m.Phase {
			if line := phaseLines[m.Phase]; line != "" {
				fmt.Fprintf(a.Stdout, "%s.\n", line)
			}
		}
		p.last = m
		for _, n := range m.Nodes {
			p.nodes[n.Id] = n
		}
		for _, n := range m.Nodes {
			// What is between two messages may be more than one phase.
			distribute := m.Phase == pkipb.Rotation_PHASE_DISTRIBUTE
			if n.Trusts && (distribute || m.Phase == pkipb.Rotation_PHASE_REISSUE) {
				a.sayOnce(p, n.Id, "trusts both roots", n)
			}
			if n.Current && !distribute {
				a.sayOnce(p, fmt.Sprint(n.Id, n.Issuer), "has its certificate of the CA in force", n)
			}
		}
		if m.Done {
			return nil
		}
	}
}

func (a *app) sayOnce(p *caProgress, key, did string, n *controlpb.CANode) {
	if !p.said[key] {
		p.said[key] = true
		fmt.Fprintf(a.Stdout, "%s %s.\n", nodeLabel(n.Name, n.Id), did)
	}
}

// behindCA are the nodes that have no certificate of the CA in force.
func (p *caProgress) behindCA() (connected, away []string) {
	for _, n := range p.nodes {
		switch label := nodeLabel(n.Name, n.Id); {
		case n.Current:
		case n.Connected:
			connected = append(connected, label)
		default:
			away = append(away, label)
		}
	}
	slices.Sort(connected)
	slices.Sort(away)
	return connected, away
}

func (a *app) endCA(p *caProgress, f caRotation) error {
	connected, away := p.behindCA()
	if r := p.last.Last; r != nil && (f.root || f.watch || f.abort) {
		took := time.Duration(r.EndedAt - r.BeganAt).Round(10 * time.Millisecond)
		if r.Aborted {
			fmt.Fprintf(a.Stdout, "The last replacement of the root was given up after %v: the old root stays.\n", took)
		} else {
			fmt.Fprintf(a.Stdout, "The last replacement of the root took %v.\n", took)
		}
	}
	if len(away) > 0 {
		fmt.Fprintf(a.Stdout, "Away with certificates of before: %s. Each follows by itself within 30 days after its certificate ended,\n"+
			"unless the issuing CA or the external one is replaced nine times by then, by itself or by `ca rotate`, `ca external set` or `rm`, or a manager's leaving; later, or where it was in no cluster's reach: `redoubt leave --force` there, `redoubt node rm` here, and join again.\n", a.nodeList(away))
	}
	if len(connected) > 0 {
		return failf(ExitNotConverged, "connected and not there yet: %s", a.nodeList(connected))
	}
	fmt.Fprintln(a.Stdout, "Every connected node has its certificate of the CA in force.")
	return nil
}

func (a *app) cutCA(p *caProgress, f caRotation) error {
	connected, _ := p.behindCA()
	if len(connected) == 0 {
		return failf(ExitNotConverged, "not done within %v: the cluster goes on with it; `redoubt ca rotate --watch` shows how far it is", f.wait)
	}
	return failf(ExitNotConverged, "not done within %v, and not waiting any longer for %s: the cluster goes on with it; `redoubt ca rotate --watch` shows how far it is", f.wait, a.nodeList(connected))
}
