package sandbox

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Capability is a capability number of linux/capability.h.
type Capability int

var capNames = map[Capability]string{
	unix.CAP_CHOWN: "CAP_CHOWN", unix.CAP_DAC_OVERRIDE: "CAP_DAC_OVERRIDE", unix.CAP_FOWNER: "CAP_FOWNER",
	unix.CAP_FSETID: "CAP_FSETID", unix.CAP_KILL: "CAP_KILL", unix.CAP_NET_ADMIN: "CAP_NET_ADMIN", unix.CAP_NET_RAW: "CAP_NET_RAW",
	unix.CAP_SETGID: "CAP_SETGID", unix.CAP_SETUID: "CAP_SETUID", unix.CAP_SYS_ADMIN: "CAP_SYS_ADMIN",
}

func (c Capability) String() string {
	if n := capNames[c]; n != "" {
		return n
	}
	return fmt.Sprintf("capability %d", int(c))
}

func names(cs []Capability) string {
	if len(cs) == 0 {
		return "none"
	}
	var s []string
	for _, c := range cs {
		s = append(s, c.String())
	}
	return strings.Join(s, " ")
}

// checkCapabilities refuses any effective or permitted capability outside want.
func checkCapabilities(want []Capability) error {
	var mask uint64
	for _, c := range want {
		mask |= 1 << uint(c)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	have := uint64(data[1].Permitted|data[1].Effective)<<32 | uint64(data[0].Permitted|data[0].Effective)
	for c := range Capability(64) {
		if have&^mask&(1<<uint(c)) != 0 {
			return fmt.Errorf("started with %s, which it must not hold: start it through redoubt-node or the packaged units", c)
		}
	}
	return nil
}
