package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
)

func (a *app) imageCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "image",
		Short:   "Bring images to this node, and say which may run",
		Example: `  redoubt image load --input web.tar`,
	}
	group(c)
	c.AddCommand(a.imageLoadCmd(), a.imagePolicyCmd())
	return c
}

func (a *app) imageLoadCmd() *cobra.Command {
	var input string
	c := &cobra.Command{
		Use:   "load [--input FILE]",
		Short: "Import an image archive on this node",
		Long: `load imports an archive that docker save wrote, or an OCI layout in a tar, on
this node alone. A service that uses the image runs on the nodes that have it,
so load it on each; managers count for what its name means.`,
		Example: `  redoubt image load --input web.tar
  docker save web:1 | redoubt image load`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error { return a.runImageLoad(c.Context(), input) },
	}
	c.Flags().StringVarP(&input, "input", "i", "", "read the archive from this `file` instead of standard input")
	return c
}

func (a *app) runImageLoad(ctx context.Context, input string) error {
	var archive io.Reader = a.Stdin
	if input != "" {
		f, err := os.Open(input)
		if err != nil {
			return err
		}
		defer f.Close()
		archive = f
	}
	path, err := a.socketPath()
	if err != nil {
		return err
	}
	c, err := apiclient.Dial(ctx, path)
	if err != nil {
		return err
	}
	defer c.Close()
	images, err := apiclient.LoadImage(ctx, c, archive)
	if err != nil {
		return err
	}
	for _, ref := range slices.Sorted(maps.Keys(images)) {
		fmt.Fprintf(a.Stdout, "%s@%s\n", printable(ref), printable(images[ref]))
	}
	return nil
}
