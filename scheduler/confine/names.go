package confine

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func checkHosts(list []*taskpb.Host) error {
	if err := atMost("hosts", len(list), maxHosts); err != nil {
		return err
	}
	type line struct{ name, address string }
	seen := map[line]bool{}
	for _, h := range list {
		name := strings.ToLower(h.GetName())
		if err := checkDomain(h.GetName()); err != nil {
			return fmt.Errorf("host %q: %w", clip(h.GetName()), err)
		}
		switch {
		case name == "localhost" || strings.HasPrefix(name, "ip6-") || strings.HasSuffix(name, ".localhost"):
			return fmt.Errorf("host %s: every container has it, and it means the container itself: choose another name", name)
		case strings.HasPrefix(name, "tasks."):
			return fmt.Errorf("host %s: names that begin with tasks. are the cluster's: choose another", name)
		}
		a, err := netip.ParseAddr(h.GetAddress())
		if err != nil || a.Zone() != "" || a.Is4In6() || a.String() != h.GetAddress() {
			return fmt.Errorf("host %s: %q is no IP address in its shortest form", name, clip(h.GetAddress()))
		}
		if l := (line{name, h.GetAddress()}); seen[l] {
			return fmt.Errorf("host %s is given the address %s twice: keep one", name, h.GetAddress())
		} else {
			seen[l] = true
		}
	}
	return nil
}

// checkDomain wants dot-separated labels of letters, digits, hyphens and underscores.
func checkDomain(s string) error {
	if s == "" || len(s) > maxDomain {
		return fmt.Errorf("a name has 1 to %d characters", maxDomain)
	}
	for _, label := range strings.Split(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("parts of a name have 1 to 63 characters and no hyphen at either end")
		}
		for _, r := range label {
			if !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_') {
				return fmt.Errorf("a name is made of letters, digits, dots, hyphens and underscores")
			}
		}
	}
	return nil
}

func checkDNS(d *taskpb.DNS) error {
	if d == nil {
		return nil
	}
	if len(d.GetServers())+len(d.GetSearch())+len(d.GetOptions()) == 0 {
		return fmt.Errorf("the container's DNS says nothing: name a server, a search domain or an option, or leave it out")
	}
	for what, n := range map[string][2]int{"DNS servers": {len(d.GetServers()), maxServers}, "DNS search domains": {len(d.GetSearch()), maxSearch}, "DNS options": {len(d.GetOptions()), maxDNSOptions}} {
		if err := atMost(what, n[0], n[1]); err != nil {
			return err
		}
	}
	seen := map[string]bool{}
	once := func(kind, s string) error {
		if seen[kind+s] {
			return fmt.Errorf("DNS %s %s is given twice: keep one", kind, s)
		}
		seen[kind+s] = true
		return nil
	}
	for _, s := range d.GetServers() {
		if err := cmp.Or(CheckServer(s), once("server", s)); err != nil {
			return err
		}
	}
	for _, s := range d.GetSearch() {
		if err := checkDomain(s); err != nil {
			return fmt.Errorf("DNS search domain %q: %w", clip(s), err)
		}
		if err := once("search domain", strings.ToLower(s)); err != nil {
			return err
		}
	}
	for _, o := range d.GetOptions() {
		name, _, _ := strings.Cut(o, ":")
		if err := cmp.Or(checkOption(o), once("option", name)); err != nil {
			return err
		}
	}
	return nil
}

// CheckServer returns an error unless a resolver may be there. The node asks it in the
// container's stead, so it is no address that means the node itself, or a machine for
// being on its link.
func CheckServer(s string) error {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil || a.Zone() != "" || a.Is4In6() || a.String() != s:
		return fmt.Errorf("DNS server %q is no IP address in its shortest form", clip(s))
	case a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("DNS server %s: give one that answers at an address of its own, not of the node or its link", s)
	}
	return nil
}

// switches and numbers are options of resolv.conf(5) that change how a container asks
// and not whom.
var (
	switches = []string{"edns0", "no-tld-query", "rotate", "single-request", "single-request-reopen", "use-vc"}
	numbers  = map[string]int{"ndots": maxNdots, "timeout": maxTimeout, "attempts": maxAttempts}
)

func checkOption(o string) error {
	if slices.Contains(switches, o) {
		return nil
	}
	name, value, _ := strings.Cut(o, ":")
	most, ok := numbers[name]
	if !ok {
		return fmt.Errorf("DNS option %q is unknown: use ndots:N, timeout:N, attempts:N, %s", clip(o), strings.Join(switches, ", "))
	}
	if n, err := strconv.Atoi(value); err != nil || n < 0 || n > most || strconv.Itoa(n) != value {
		return fmt.Errorf("DNS option %s: give a number of at most %d", name, most)
	}
	return nil
}

func checkGroups(list []string) error {
	if err := atMost("groups", len(list), maxGroups); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, g := range list {
		n, err := strconv.ParseUint(g, 10, 64)
		switch {
		case err == nil && (n > maxID || strconv.FormatUint(n, 10) != g):
			return fmt.Errorf("group %q: give a number of at most %d, or a name", clip(g), maxID)
		case err != nil && !groupRule.MatchString(g):
			return fmt.Errorf("group %q: give a name of the image, of at most %d letters, digits and _ . -, or a number", clip(g), maxGroup)
		case seen[g]:
			return fmt.Errorf("group %s is given twice: keep one", g)
		}
		seen[g] = true
	}
	return nil
}

var groupRule = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,31}$`)
