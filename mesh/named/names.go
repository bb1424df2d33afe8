package named

import (
	"fmt"
	"net/netip"
	"strings"
)

// fold checks a declared name and gives it the form it is looked up in: lower
// case, labels of letters, digits, hyphens and underscores, no final dot.
func fold(what, s string) (string, error) {
	if s == "" || len(s) > maxName {
		return "", fmt.Errorf("%s: a name has 1 to %d characters, not %d", what, maxName, len(s))
	}
	label := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			if label == 0 {
				return "", fmt.Errorf("%s %q: it has an empty label", what, s)
			}
			label = 0
			continue
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_':
		default:
			return "", fmt.Errorf("%s %q: only letters, digits, hyphens, underscores and dots are allowed", what, s)
		}
		if label++; label > maxLabel {
			return "", fmt.Errorf("%s %q: a label has at most %d characters", what, s, maxLabel)
		}
	}
	if label == 0 {
		return "", fmt.Errorf("%s %q: it ends in a dot", what, s)
	}
	return strings.ToLower(s), nil
}

func foldLabel(what, s string) (string, error) {
	if strings.Contains(s, ".") {
		return "", fmt.Errorf("%s %q: it must be one label, without dots", what, s)
	}
	return fold(what, s)
}

// asked is a question's name in the form names are looked up in. What miekg/dns
// had to escape keeps its backslash and so fits no declared name.
func asked(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

func labels(name string) int {
	if name == "" {
		return 0
	}
	n, escaped := 1, false
	for i := range len(name) {
		switch {
		case escaped:
			escaped = false
		case name[i] == '\\':
			escaped = true
		case name[i] == '.':
			n++
		}
	}
	return n
}

func number(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// hidden are names that would tell an outsider of the cluster's inside, and can
// mean nothing there: those without a dot, and what is made from a service's
// name. They are never forwarded.
func hidden(name string, known func(string) bool) bool {
	n := labels(name)
	if n <= 1 {
		return true
	}
	first, rest, _ := strings.Cut(name, ".")
	switch {
	case n == 2:
		return first == "tasks" || first[0] == '_' || number(first) && known(rest)
	case strings.HasPrefix(first, "_"):
		second, rest, _ := strings.Cut(rest, ".")
		return (second == "_tcp" || second == "_udp") && hidden(rest, known)
	}
	return false
}

const reverse4, reverse6 = ".in-addr.arpa", ".ip6.arpa"

// reverseAddr is the address that a reverse name is of.
func reverseAddr(name string) (a netip.Addr, ok bool) {
	if s, is4 := strings.CutSuffix(name, reverse4); is4 {
		parts := strings.Split(s, ".")
		if len(parts) != 4 {
			return a, false
		}
		a, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return a, err == nil && a.Is4()
	}
	s, is6 := strings.CutSuffix(name, reverse6)
	if !is6 || len(s) != 63 {
		return a, false
	}
	var b [16]byte
	for i := range 32 {
		c := s[2*i]
		if i < 31 && s[2*i+1] != '.' {
			return a, false
		}
		var d byte
		switch {
		case '0' <= c && c <= '9':
			d = c - '0'
		case 'a' <= c && c <= 'f':
			d = c - 'a' + 10
		default:
			return a, false
		}
		at := 15 - i/2
		if i%2 == 0 {
			b[at] = d
		} else {
			b[at] |= d << 4
		}
	}
	return netip.AddrFrom16(b).Unmap(), true
}
