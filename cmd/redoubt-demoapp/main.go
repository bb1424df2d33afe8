// Command redoubt-demoapp is the only file of the demo image; see package
// demoapp.
package main

import (
	"os"

	"github.com/redoubt-cluster/redoubt/cmd/internal/demoapp"
)

func main() { os.Exit(demoapp.Main(os.Args[1:], os.Stdout, os.Stderr)) }
