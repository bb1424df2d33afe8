package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy"
)

func (a *app) imagePolicyCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "policy", Short: "Which images may run",
		Long: `policy keeps the cluster's image policy: a YAML document of rules that say from
which registries images may come, who must have signed them, and which
attestations they must have. Without one every image may run; with one, only what
a rule admits. Managers ask it when a service is created or its image changes, and
every node again before it makes a container. What runs goes on when it changes.`,
		Example: `  redoubt image policy set images.yaml`,
	}
	group(c)
	c.AddCommand(a.imagePolicySetCmd(), a.imagePolicyShowCmd(), a.imagePolicyCheckCmd(), a.imagePolicyRmCmd())
	return c
}

// readImagePolicy reads a document, "-" for standard input, and refuses here already
// what no manager would take.
func (a *app) readImagePolicy(file string) ([]byte, error) {
	in := a.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, imagepolicy.MaxDocument+1))
	if err != nil {
		return nil, err
	}
	if _, err := imagepolicy.Parse(text); err != nil {
		return nil, failf(ExitError, "%v", err)
	}
	return text, nil
}

func (a *app) imagePolicySetCmd() *cobra.Command {
	return &cobra.Command{
		Use: "set FILE", Short: "Put a policy in force",
		Long: `set reads YAML from FILE, "-" for standard input, in place of the policy in
force. A rule is found by the image's repository, the first that matches decides,
and an image that no rule matches is refused:

  format: 1
  signers:
    - name: release
      keys:
        - |
          -----BEGIN PUBLIC KEY-----
          …
    - name: ci
      ca: |
        -----BEGIN CERTIFICATE-----
        …
      identities: ["https://git.example.com/team/*"]
      issuer: https://git.example.com
  rules:
    - name: own
      images: [registry.example.com/team/**]
      by_digest: true
      signatures: {by: [release, ci], count: 2}
      attestations:
        - {type: https://slsa.dev/provenance/v1, by: [ci]}
    - name: mirror
      images: [registry.example.com/mirror/*]
      unsigned: true`,
		Example: `  redoubt image policy set images.yaml`,
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, got []string) error {
			text, err := a.readImagePolicy(got[0])
			if err != nil {
				return err
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.SetImagePolicy(ctx, &controlpb.SetImagePolicyRequest{Document: text})
				if err != nil {
					return err
				}
				a.warn(r.GetWarnings())
				fmt.Fprintln(a.Stdout, printable(r.GetDigest()))
				return nil
			})
		},
	}
}

// imagePolicyJSON is `image policy show --format json`.
type imagePolicyJSON struct {
	Digest   string    `json:"digest"`
	Updated  time.Time `json:"updated"`
	Document string    `json:"document"`
}

func (a *app) imagePolicyShowCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "show", Short: "Print the policy in force",
		Example: `  redoubt image policy show > images.yaml`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.GetImagePolicy(ctx, &controlpb.GetImagePolicyRequest{})
				if err != nil {
					return err
				}
				if len(r.GetDocument()) == 0 {
					return failf(ExitError, "there is no image policy: every image may run")
				}
				if out.structured() {
					return out.objects(a.Stdout, imagePolicyJSON{r.GetDigest(), time.Unix(0, r.GetUpdatedAt()).UTC(), string(r.GetDocument())})
				}
				fmt.Fprint(a.Stdout, printableText(string(r.GetDocument())))
				return nil
			})
		},
	}
	out.flags(c, false)
	return c
}

func (a *app) imagePolicyCheckCmd() *cobra.Command {
	var policy string
	var out output
	c := &cobra.Command{
		Use: "check [flags] IMAGE", Short: "Say whether an image may run, and why not",
		Long: `check finds the rule for an image, asks its registry for the signatures and
attestations beside it, and says what the policy makes of them. Nothing is created.
With --policy it judges by a file instead of the policy in force. It ends with
status 1 where the image is refused.`,
		Example: `  redoubt image policy check registry.example.com/team/web:4
  redoubt image policy check --policy new.yaml registry.example.com/team/web:4`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, got []string) error {
			req := &controlpb.CheckImageRequest{Image: got[0]}
			if policy != "" {
				text, err := a.readImagePolicy(policy)
				if err != nil {
					return err
				}
				req.Document = text
			}
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				r, err := api.CheckImage(ctx, req)
				if err != nil {
					return err
				}
				if out.structured() {
					if err := out.objects(a.Stdout, protoJSON(r)); err != nil {
						return err
					}
				} else {
					verdict := "admitted"
					if !r.GetAdmitted() {
						verdict = "refused"
					}
					field(a.Stdout, "Image", r.GetImage())
					field(a.Stdout, "Digest", r.GetDigest())
					field(a.Stdout, "Rule", r.GetRule())
					field(a.Stdout, "Bundles", fmt.Sprint(r.GetBundles()))
					field(a.Stdout, "Verdict", verdict)
				}
				if !r.GetAdmitted() {
					return failf(ExitError, "%s", r.GetWhy())
				}
				return nil
			})
		},
	}
	out.flags(c, false)
	c.Flags().StringVar(&policy, "policy", "", "judge by this `file` instead of the policy in force")
	return c
}

func (a *app) imagePolicyRmCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rm", Aliases: []string{"remove"}, Short: "Let every image run",
		Long:    `rm takes the policy out of force. A node's own, in its configuration, stays.`,
		Example: `  redoubt image policy rm`,
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(ctx context.Context, api *api) error {
				_, err := api.RemoveImagePolicy(ctx, &controlpb.RemoveImagePolicyRequest{})
				return err
			})
		},
	}
}
