// Command redoubt-proxy puts a PROXY protocol header in front of connections to
// one task: see package mesh/proxy. redoubt-rund starts it in the task's container.
package main

import (
	"os"

	"github.com/redoubt-cluster/redoubt/mesh/proxy"
)

func main() { os.Exit(proxy.Run()) }
