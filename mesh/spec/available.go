package spec

import (
	"fmt"
	"sync/atomic"
)

// What nodes cannot do yet is refused when it is asked for, here and nowhere
// else, and never stored as if it worked. To lift a refusal is to change its
// line.

// detached: services cannot be attached to networks. It is a variable for the
// tests of what comes before and behind it.
var detached atomic.Bool

// SwitchAttach is for tests. It returns what it was.
func SwitchAttach(on bool) (was bool) { return !detached.Swap(!on) }

// dataPlane are the drivers whose networks nodes can make.
var dataPlane = map[string]bool{
	Overlay: true,
}

// CanAttach refuses services on networks for as long as nodes cannot do it.
func CanAttach() error {
	if detached.Load() {
		return fmt.Errorf("attaching services to networks is not available in this version yet: leave the network out")
	}
	return nil
}

// instead is what to do where a driver is refused for good, or has to wait.
var instead = map[string]string{
	"bridge":  "use overlay, which keeps containers apart on one node as well",
	"macvlan": "CNI's macvlan plugin makes such networks: see driver cni",
	"host":    "publish ports with mode=host: a container in the node's own network would reach all that listens on 127.0.0.1",
	"none":    "use --driver overlay --internal",
	"cni":     "use overlay; nodes can be prepared, see \"networks of CNI plugins\" in the manual",
}

func hasDataPlane(driver string) error {
	if say := instead[driver]; !dataPlane[driver] && say != "" {
		return fmt.Errorf("networks of driver %s are not available in this version yet: %s", driver, say)
	}
	if !dataPlane[driver] {
		return fmt.Errorf("networks of driver %s are not available in this version yet: use %s", driver, Overlay)
	}
	return nil
}
