package control

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// capabilities are the kernel's masks that daemons have: netd's are NET_ADMIN and
// SYS_ADMIN, rund's the eight that containers need to be made.
var capabilities = map[string]string{
	"redoubtd": "0000000000000000", "redoubt-keyd": "0000000000000000", "redoubt-named": "0000000000000000",
	"redoubt-netd": "0000000000201000", "redoubt-rund": "00000000002000fb",
}

func checkUsers(_ context.Context, n *Node, found *Found) error {
	all, err := n.daemons("redoubtd", "redoubt-keyd", "redoubt-netd", "redoubt-named")
	if err != nil {
		return err
	}
	seen := map[string]string{}
	for _, p := range all {
		ids, err := p.status("Uid")
		if err != nil {
			return err
		}
		groups, err := p.status("Groups")
		if err != nil {
			return err
		}
		found.Looked()
		first, _, _ := strings.Cut(ids, " ")
		switch {
		case ids != strings.Join([]string{first, first, first, first}, " "):
			found.Against("%s runs as several users: %s", p.Name, ids)
		case first == "0":
			found.Against("%s runs as root", p.Name)
		case seen[first] != "":
			found.Against("%s runs as the user of %s, %s", p.Name, seen[first], first)
		}
		if groups != "" {
			found.Against("%s has the groups %s", p.Name, groups)
		}
		seen[first] = p.Name
	}
	return nil
}

func checkCapabilities(_ context.Context, n *Node, found *Found) error {
	all, err := n.daemons(daemonNames...)
	if err != nil {
		return err
	}
	for _, p := range all {
		for _, set := range []string{"CapEff", "CapPrm", "CapBnd", "CapAmb"} {
			got, err := p.status(set)
			if err != nil {
				return err
			}
			found.Looked()
			if beyond(got, capabilities[p.Name]) {
				found.Against("%s: %s is %s, and may be %s", p.Name, set, got, capabilities[p.Name])
			}
		}
	}
	return nil
}

// beyond tells whether a mask has what may does not.
func beyond(got, may string) bool {
	var g, m uint64
	if _, err := fmt.Sscanf(got, "%x", &g); err != nil {
		return true
	}
	fmt.Sscanf(may, "%x", &m)
	return g&^m != 0
}

// checkStatus holds a line of every daemon's status against what it is to be.
func checkStatus(key, want, against string) func(context.Context, *Node, *Found) error {
	return func(_ context.Context, n *Node, found *Found) error {
		all, err := n.daemons(daemonNames...)
		if err != nil {
			return err
		}
		for _, p := range all {
			got, err := p.status(key)
			if err != nil {
				return err
			}
			found.Looked()
			if got != want {
				found.Against("%s %s (%s %s)", p.Name, against, key, got)
			}
		}
		return nil
	}
}

func checkNoCore(_ context.Context, n *Node, found *Found) error {
	all, err := n.daemons(daemonNames...)
	if err != nil {
		return err
	}
	for _, p := range all {
		limits, err := p.read("limits")
		if err != nil {
			return err
		}
		_, rest, ok := strings.Cut(limits, "Max core file size")
		if !ok {
			return fmt.Errorf("%s: the kernel names no limit of cores", p.Name)
		}
		found.Looked()
		first, _, _ := strings.Cut(rest, "\n")
		if f := strings.Fields(first); len(f) < 2 || f[0] != "0" || f[1] != "0" {
			found.Against("%s may dump its memory: its limit of cores is %s", p.Name, strings.Join(strings.Fields(first), " "))
		}
	}
	return nil
}

// checkUndumpable: the kernel gives files of a process that may not be dumped or
// traced to root, and those of others to the process's user.
func checkUndumpable(_ context.Context, n *Node, found *Found) error {
	all, err := n.daemons("redoubtd", "redoubt-keyd", "redoubt-netd", "redoubt-named")
	if err != nil {
		return err
	}
	for _, p := range all {
		fi, err := os.Lstat(filepath.Join(p.proc, "mem"))
		if err != nil {
			return err
		}
		found.Looked()
		if owner(fi) != 0 {
			found.Against("%s can be read and traced by processes of its own user", p.Name)
		}
	}
	return nil
}

func checkLockedMemory(_ context.Context, n *Node, found *Found) error {
	all, err := n.daemons("redoubt-keyd")
	if err != nil {
		return err
	}
	for _, p := range all {
		locked, err := p.status("VmLck")
		if err != nil {
			return err
		}
		swapped, err := p.status("VmSwap")
		if err != nil {
			return err
		}
		found.Looked()
		if locked == "0 kB" {
			found.Against("%s has no memory locked", p.Name)
		}
		if swapped != "0 kB" {
			found.Against("%s has %s of its memory swapped out", p.Name, swapped)
		}
	}
	return nil
}
