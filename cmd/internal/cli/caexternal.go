package cli

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/external/provisioner"
)

// maxChainFile bounds the file of certificates, in bytes.
const maxChainFile = 64 << 10

const defaultProvisioner = "redoubt"

func (a *app) caExternalCmd() *cobra.Command {
	c := &cobra.Command{Use: "external", Short: "Have a CA outside of the cluster, a step-ca, sign workers' certificates"}
	group(c)
	c.AddCommand(a.caExternalSetCmd(), a.caExternalShowCmd(), a.caExternalRmCmd(), a.caExternalProvisionerCmd())
	return c
}

// caExternal are the flags of `ca external set`.
type caExternal struct {
	chain, provisioner string
	follow             caRotation
}

func (a *app) caExternalSetCmd() *cobra.Command {
	var f caExternal
	c := &cobra.Command{
		Use:   "set URL --chain FILE",
		Short: "Have the step-ca at URL sign workers' certificates",
		Long: `set has every worker take its certificate of the step-ca at that address, now and
at each renewal and join. The cluster still decides who gets one: keyd approves each
request, orders the certificate with a one-time token of its own, and takes it only
where it is exactly what was ordered.

FILE has two certificates in PEM: the CA that signs leaves, and its root ("-": from
stdin). Nothing that is secret is handed over: step-ca gets the public key of the
cluster's orders (redoubt ca external provisioner). The managers reach the address,
whose TLS ends in that root.

What step-ca does not sign is refused: while it cannot be reached workers keep the
certificates they have, nobody joins as a worker, and the cluster's own CA does not
sign in its place (redoubt ca external rm). Managers' certificates, and those of
workloads, stay the cluster's own.

It is refused while there is a node whose version takes no such certificates. Again,
it replaces the address or the certificates of before.`,
		Example: `  redoubt ca external provisioner   # for authority.provisioners of step-ca's ca.json
  cat intermediate_ca.crt root_ca.crt | redoubt ca external set https://ca.example.com:9000 --chain -`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, p []string) error { return a.runCAExternalSet(c.Context(), p[0], f) },
	}
	c.Flags().StringVar(&f.chain, "chain", "", "file with the CA that signs leaves and its root, in PEM (-: stdin)")
	c.Flags().StringVar(&f.provisioner, "provisioner", defaultProvisioner, "name of the provisioner at the step-ca")
	externalFlags(c, &f.follow)
	return c
}

func externalFlags(c *cobra.Command, f *caRotation) {
	c.Flags().BoolVarP(&f.detach, "detach", "d", false, "do not wait for nodes")
	c.Flags().DurationVar(&f.wait, "timeout", defaultWait, "how long to wait for nodes")
}

func (a *app) runCAExternalSet(ctx context.Context, url string, f caExternal) error {
	if f.chain == "" {
		return usagef("give the CA's certificates: --chain FILE")
	}
	chain, err := a.readChain(f.chain)
	if err != nil {
		return err
	}
	req := &controlpb.SetExternalCARequest{Url: strings.TrimSuffix(url, "/"), Provisioner: f.provisioner, Chain: chain}
	return a.changeExternal(ctx, f.follow, func(ctx context.Context, c *api) ([]string, error) {
		r, err := c.SetExternalCA(ctx, req)
		if err == nil {
			fmt.Fprintf(a.Stdout, "The CA at %s signs workers' certificates from now on (keyset epoch %d). Join tokens carry on.\n", printable(req.Url), r.KeysetEpoch)
		}
		return r.GetAway(), err
	})
}

// changeExternal does it, and follows the nodes as a rotation does.
func (a *app) changeExternal(ctx context.Context, f caRotation, do func(context.Context, *api) (away []string, _ error)) error {
	ctx, c, done, err := a.reach(ctx, f.wait)
	if err != nil {
		return err
	}
	defer done()
	away, err := do(ctx, c)
	if err != nil {
		return apiclient.Err(err)
	}
	if len(away) > 0 {
		fmt.Fprintf(a.Stdout, "Away, and not waited for: %s.\n", a.nodeList(away))
	}
	if f.detach {
		return nil
	}
	return a.followCA(ctx, c, f)
}

// readChain reads two certificates in PEM and nothing else.
func (a *app) readChain(path string) (chain [][]byte, _ error) {
	in := a.Stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, usagef("--chain: %v", err)
		}
		defer file.Close()
		in = file
	}
	b, err := io.ReadAll(io.LimitReader(in, maxChainFile+1))
	if err != nil {
		return nil, usagef("--chain: %v", err)
	}
	for len(bytes.TrimSpace(b)) > 0 && len(b) <= maxChainFile {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil || block.Type != "CERTIFICATE" {
			return nil, usagef("--chain %s: it has something other than certificates in PEM", path)
		}
		chain = append(chain, block.Bytes)
	}
	if len(chain) != 2 {
		return nil, usagef("--chain %s: give two certificates, the CA that signs leaves and its root", path)
	}
	return chain, nil
}

func (a *app) caExternalRmCmd() *cobra.Command {
	var f caRotation
	c := &cobra.Command{
		Use:   "rm",
		Short: "Have the cluster's own CA sign workers' certificates again",
		Long: `rm has every worker take its certificate of the cluster's own issuing CA again. It
needs nothing of the external CA, so that it goes also where that one is gone.`,
		Example: `  redoubt ca external rm`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.changeExternal(c.Context(), f, func(ctx context.Context, c *api) ([]string, error) {
				r, err := c.RemoveExternalCA(ctx, &controlpb.RemoveExternalCARequest{})
				if err == nil {
					fmt.Fprintf(a.Stdout, "The cluster's own CA signs workers' certificates again (keyset epoch %d).\n", r.KeysetEpoch)
				}
				return r.GetAway(), err
			})
		},
	}
	externalFlags(c, &f)
	return c
}

func (a *app) caExternalShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "show",
		Short:   "Show which CA outside of the cluster signs, and whether it does",
		Example: `  redoubt ca external show`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.InspectCA(ctx, &controlpb.InspectCARequest{})
				if err != nil {
					return err
				}
				if r.External == nil {
					fmt.Fprintln(a.Stdout, "No CA outside of the cluster signs.")
					return nil
				}
				a.printExternal(r)
				return nil
			})
		},
	}
}

// printExternal tells of the external CA, in a line, and of what is wrong with it.
func (a *app) printExternal(r *controlpb.InspectCAResponse) {
	e := r.External
	fmt.Fprintf(a.Stdout, "Workers' certificates are signed by the CA at %s (provisioner %s).\n", printable(e.Url), printable(e.Provisioner))
	if e.Failure != "" {
		fmt.Fprintf(a.Stdout, "FAILING since %s: %s. Workers keep the certificates they have.\n", time.Unix(e.FailedAt, 0).UTC().Format(time.RFC3339), printable(e.Failure))
	}
}

func (a *app) caExternalProvisionerCmd() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:   "provisioner",
		Short: "Print the provisioner that a step-ca needs to sign for this cluster",
		Long: `provisioner prints, in JSON, what goes into authority.provisioners of the step-ca's
ca.json: the public key of the cluster's orders and the shape of a worker's
certificate. Nothing in it is secret.

The key is another one once a manager was removed or demoted, as that one knew it:
print it anew, take the one of before out, and run redoubt ca external set again.`,
		Example: `  redoubt ca external provisioner > redoubt.json
  jq '.authority.provisioners += [input]' ca.json redoubt.json > ca.json.new`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.InspectCA(ctx, &controlpb.InspectCARequest{})
				if err != nil {
					return err
				}
				out, err := provisioner.JSON(name, r.ClusterId, r.OrderKey)
				if err == nil {
					fmt.Fprintf(a.Stdout, "%s\n", out)
				}
				return err
			})
		},
	}
	c.Flags().StringVar(&name, "name", defaultProvisioner, "its name")
	return c
}
