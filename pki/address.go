package pki

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
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
		if ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "" && ident.CheckHostname(ip.Zone()) != nil {
			return fmt.Errorf("address %q: others cannot reach it", s)
		}
		return nil
	}
	if err := ident.CheckHostname(host); err != nil {
		return fmt.Errorf("address %q is not host:port: the host must be an IP address or a name", s)
	}
	return nil
}

// checkManagers is CheckAddresses for managers with their ids; none is none to keep.
func checkManagers(managers []*pkipb.Manager) error {
	var addrs []string
	for _, m := range managers {
		if !ident.Valid(m.GetNodeId()) {
			return errors.New("malformed list of managers")
		}
		addrs = append(addrs, m.GetAddress())
	}
	if len(addrs) == 0 {
		return nil
	}
	return CheckAddresses(addrs)
}

// CheckAddresses returns an error unless these can be where the managers are, as
// a manager says. Who keeps them keeps all or none.
func CheckAddresses(addrs []string) error {
	if n := len(addrs); n == 0 || n > maxAddresses {
		return fmt.Errorf("%d addresses of managers: 1 to %d can be kept", n, maxAddresses)
	}
	for _, a := range addrs {
		if err := CheckAddress(a); err != nil {
			return err
		}
	}
	return nil
}
