package cli

import "github.com/spf13/cobra"

func (a *app) labCmd() *cobra.Command { return &cobra.Command{Use: "lab"} }
