package confine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// PortStart is the sysctl below which ports need a capability: 0 unless a service says
// otherwise.
const PortStart = "net.ipv4.ip_unprivileged_port_start"

// sysctls are those of a container's own network that change how it speaks and no more:
// neither which packets it accepts or passes on, nor what else shares the machine's
// memory. Those of IPC are not among them, as kernels differ in whether a container may
// set them, and what they bound is bounded by its memory already.
var sysctls = []string{
	"net.core.somaxconn",
	"net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports", PortStart,
	"net.ipv4.tcp_ecn", "net.ipv4.tcp_fastopen", "net.ipv4.tcp_fin_timeout",
	"net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_max_syn_backlog", "net.ipv4.tcp_max_tw_buckets", "net.ipv4.tcp_mtu_probing", "net.ipv4.tcp_notsent_lowat", "net.ipv4.tcp_orphan_retries",
	"net.ipv4.tcp_retries1", "net.ipv4.tcp_retries2", "net.ipv4.tcp_rfc1337", "net.ipv4.tcp_rmem", "net.ipv4.tcp_sack", "net.ipv4.tcp_slow_start_after_idle",
	"net.ipv4.tcp_syn_retries", "net.ipv4.tcp_synack_retries", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_timestamps", "net.ipv4.tcp_tw_reuse",
	"net.ipv4.tcp_window_scaling", "net.ipv4.tcp_wmem",
}

// SysctlNames are all of them, sorted.
func SysctlNames() []string { return slices.Clone(sysctls) }

func checkSysctls(list []*taskpb.Sysctl) error {
	if err := atMost("sysctls", len(list), maxSysctls); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, s := range list {
		name, value := s.GetName(), s.GetValue()
		switch {
		case seen[name]:
			return fmt.Errorf("sysctl %s is given twice: keep one", clip(name))
		case slices.Contains(sysctls, name):
		case strings.HasPrefix(name, "kernel.") || strings.HasPrefix(name, "fs.mqueue."):
			return fmt.Errorf("sysctl %q: of IPC and the kernel none can be set for a container: its memory is what bounds it", clip(name))
		default:
			return fmt.Errorf("sysctl %q is none that a container may set: there are those of its own network that `redoubt help service create` names", clip(name))
		}
		if value == "" || len(value) > maxSysctl || strings.Trim(value, "0123456789 ,-") != "" || strings.TrimSpace(value) != value {
			return fmt.Errorf("sysctl %s: the value must be numbers of at most %d characters", name, maxSysctl)
		}
		seen[name] = true
	}
	return nil
}
