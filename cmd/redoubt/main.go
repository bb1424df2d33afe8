// Command redoubt is what operators and developers type; see package cli.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/redoubt-cluster/redoubt/cmd/internal/cli"
	"github.com/redoubt-cluster/redoubt/internal/sandbox"
)

func main() {
	// Operator keys and tokens pass through this process.
	if err := sandbox.HideMemory(); err != nil {
		fmt.Fprintf(os.Stderr, "redoubt: %v\n", err)
		os.Exit(cli.ExitError)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, cli.System(), os.Args[1:])
	stop()
	os.Exit(code)
}
