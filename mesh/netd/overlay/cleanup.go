package overlay

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/overlay/rules"
)

// networkNetns are the names of all namespaces of networks that are pinned: the
// directory is not for netd to list, but what is mounted there is for all to see.
func networkNetns(runDir string) (out []string, err error) {
	b, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(filepath.Join(runDir, "netns"))
	if err != nil {
		return nil, err
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		at := mountEscapes.Replace(fields[4])
		if name := filepath.Base(at); filepath.Dir(at) == dir && isNetworkNetns(name) && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out, nil
}

// mountEscapes are what proc(5) writes for characters that would end a field.
var mountEscapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// removeStrays takes away what an earlier process left of networks that are not
// declared any more.
func (o *Overlays) removeStrays() {
	err := eachEmpty(o.runDir, o.ns, o.deny, func(name string) bool { return o.plan.netnss[name] == "" })
	if err != nil {
		o.log.Error("networks that nobody declared are not removed; it is tried again", "err", err)
	}
	o.strays = err != nil
}

func eachEmpty(runDir string, node *os.File, deny func(*kernel.Netfilter) error, concerns func(name string) bool) error {
	return eachPinned(runDir, node, concerns, func(ns *os.File, nf *kernel.Netfilter) error { return empty(ns, nf, deny) })
}

// eachPinned calls fn for the namespaces of networks that are pinned.
func eachPinned(runDir string, node *os.File, concerns func(name string) bool, fn func(ns *os.File, nf *kernel.Netfilter) error) error {
	names, err := networkNetns(runDir)
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	var failed []error
	for _, name := range names {
		if !concerns(name) {
			continue
		}
		f, err := kernel.OpenPinned(runDir, name, "namespace", node)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		var nf *kernel.Netfilter
		err = kernel.InNetns(f, func() (err error) { nf, err = kernel.OpenNetfilter(); return err })
		if err == nil {
			err = kernel.OneLine(fn(f, nf), nf.Close())
		}
		failed = append(failed, err, f.Close())
	}
	return kernel.OneLine(failed...)
}

// Cleanup deletes every link of a network that is pinned below the run directory,
// those of sandboxes included, and lets nothing pass there any more: the rules
// stay. ns is the node's namespace; nil: the calling thread's. It serves those who
// take a node out of use, while no netd runs.
func Cleanup(runDir string, ns *os.File) error {
	if ns == nil {
		var err error
		if ns, err = kernel.OpenOwn(); err != nil {
			return err
		}
		defer ns.Close()
	}
	return eachEmpty(runDir, ns, rules.Deny, func(string) bool { return true })
}
