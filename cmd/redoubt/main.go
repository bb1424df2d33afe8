// Command redoubt is what operators and developers type; see package cli.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/redoubt-cluster/redoubt/cmd/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, cli.System(), os.Args[1:])
	stop()
	os.Exit(code)
}
