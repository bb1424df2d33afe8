package spec

import "fmt"

// What nodes cannot do yet is refused when it is asked for, here and nowhere
// else, and never stored as if it worked. To lift a refusal is to change its
// line.

// dataPlane are the drivers whose networks nodes can make.
var dataPlane = map[string]bool{
	Overlay: true,
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
