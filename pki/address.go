package pki

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// DefaultPort is the port managers listen on.
const DefaultPort = 2377

// CompleteAddress returns what a person wrote for a manager's address, host or
// host:port, as host:port.
func CompleteAddress(s string) (string, error) {
	full := s
	if _, _, err := net.SplitHostPort(s); err != nil {
		host := strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
		full = net.JoinHostPort(host, strconv.Itoa(DefaultPort))
	}
	return full, CheckAddress(full)
}

// CheckAddress returns an error unless s is host:port at which others can
// reach a manager.
func CheckAddress(s string) error {
	if len(s) > maxAddress {
		return fmt.Errorf("address is longer than %d characters", maxAddress)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("address %q is not host:port", s)
	}
	if p, err := strconv.ParseUint(port, 10, 16); err != nil || p == 0 || strconv.FormatUint(p, 10) != port {
		return fmt.Errorf("address %q: the port must be a number from 1 to 65535", s)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.IsUnspecified() || ip.IsMulticast() {
			return fmt.Errorf("address %q: others cannot reach %s", s, host)
		}
		return nil
	}
	if err := ident.CheckHostname(host); err != nil {
		return fmt.Errorf("address %q is not host:port: the host must be an IP address or a name", s)
	}
	return nil
}
