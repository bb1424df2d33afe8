package spec

import "fmt"

// What no node can do is refused when it is asked for, here and nowhere else, and
// never stored as if it worked. To lift a refusal is to change its line.

// instead is what to do where a driver is known and networks of it are not made.
var instead = map[string]string{
	"macvlan": "a segment of the nodes' own cards is their administrators' to give: a conflist with CNI's plugin macvlan, and --driver cni",
	"host":    "a container in the node's own network would reach all that listens on 127.0.0.1: publish ports with mode=host",
}

func hasDataPlane(driver string) error {
	if say := instead[driver]; say != "" {
		return fmt.Errorf("networks of driver %s are not made: %s", driver, say)
	}
	return nil
}
