package rund

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// taskDir is a task's directory below the run directory: the three files every
// container expects and its log. Environment and specification never go there.
type taskDir string

func (d taskDir) log() string        { return filepath.Join(string(d), "log") }
func (d taskDir) hosts() string      { return filepath.Join(string(d), "hosts") }
func (d taskDir) hostname() string   { return filepath.Join(string(d), "hostname") }
func (d taskDir) resolvConf() string { return filepath.Join(string(d), "resolv.conf") }

func (d taskDir) remove() error { return os.RemoveAll(string(d)) }

// create writes the files. They are readable by all since the container's users
// read them; the directories above are root's alone.
func (d taskDir) create(hostname string, e *rundpb.Endpoint, c *taskpb.ContainerSpec) error {
	if err := os.MkdirAll(d.log(), 0o700); err != nil {
		return err
	}
	for _, f := range []struct{ path, text string }{
		{d.hosts(), hostsFile(hostname, e, c.GetHosts())},
		{d.hostname(), hostname + "\n"},
		{d.resolvConf(), resolvFile(e, c.GetDns())},
	} {
		// Not atomic on purpose: the directory is on tmpfs and the container
		// that reads the files does not exist yet.
		if err := os.WriteFile(f.path, []byte(f.text), 0o644); err != nil {
			return err
		}
		if err := os.Chmod(f.path, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// withHosts has the container's own name mean its addresses on networks of this
// node as well.
func withHosts(e *rundpb.Endpoint, on []*rundpb.LocalAttachment) *rundpb.Endpoint {
	if len(on) == 0 {
		return e
	}
	e = proto.CloneOf(e)
	for _, at := range on {
		for _, text := range at.GetAddresses() {
			if p, err := netip.ParsePrefix(text); err == nil {
				e.Hosts = append(e.Hosts, p.Addr().String())
			}
		}
	}
	if len(e.Hosts) == 0 { // it is not on the node's bridge
		e.Hosts = []string{"127.0.1.1"}
	}
	return e
}

// hostsFile has the container's own name first, which nobody else gets.
func hostsFile(hostname string, e *rundpb.Endpoint, more []*taskpb.Host) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	if len(e.GetHosts()) > 0 {
		for _, a := range e.GetHosts() {
			fmt.Fprintf(&b, "%s\t%s\n", a, hostname)
		}
	} else if p, err := netip.ParsePrefix(e.GetAddress()); err == nil {
		fmt.Fprintf(&b, "%s\t%s\n", p.Addr(), hostname)
	} else {
		fmt.Fprintf(&b, "127.0.1.1\t%s\n", hostname)
	}
	for _, h := range more {
		if !strings.EqualFold(h.GetName(), hostname) {
			fmt.Fprintf(&b, "%s\t%s\n", h.GetAddress(), h.GetName())
		}
	}
	return b.String()
}

// resolvFile names the endpoint's servers; without any, names do not resolve,
// rather than through whatever the host uses.
func resolvFile(e *rundpb.Endpoint, own *taskpb.DNS) string {
	var b strings.Builder
	for _, d := range e.GetDns() {
		fmt.Fprintf(&b, "nameserver %s\n", d)
	}
	if len(own.GetSearch()) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(own.GetSearch(), " "))
	}
	options := own.GetOptions()
	if !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "ndots:") }) {
		options = append([]string{"ndots:0"}, options...)
	}
	fmt.Fprintf(&b, "options %s\n", strings.Join(options, " "))
	return b.String()
}

func (s *Server) taskDir(id string) taskDir { return taskDir(filepath.Join(s.taskRoot, id)) }

// listTaskDirs returns the tasks with a directory.
func (s *Server) listTaskDirs() ([]string, error) {
	entries, err := os.ReadDir(s.taskRoot)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if ident.Valid(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}
