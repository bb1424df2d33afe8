package rund

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/cni"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/cni/cnipb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Driver puts sandboxes on networks of one kind that are this node's alone.
// Overlays are none: netd makes them.
type Driver interface {
	// Attach puts a task's sandbox on networks, all or none, and off those of this
	// driver that are not named. It may be repeated.
	Attach(ctx context.Context, task string, networks []*rundpb.LocalNetwork) ([]*rundpb.LocalAttachment, error)
	// Detach takes it off all of them. An error says that this goes on in the
	// driver's own time.
	Detach(ctx context.Context, task string) error
	// Release is Detach without waiting.
	Release(task string)
	// Keep detaches all tasks but those, and returns where those are.
	Keep(ctx context.Context, tasks []string) (map[string][]*rundpb.LocalAttachment, error)
	// Features say which of its networks this node has: tasks are placed by them.
	Features(ctx context.Context) ([]*taskpb.Feature, error)
}

// Names of drivers, as networks have them.
const (
	driverCNI  = "cni"
	driverNone = "none"
)

// locals is where tasks are on networks of this node.
type locals struct {
	drivers map[string]Driver
	lo      func(task string) error // sets a sandbox's loopback interface up

	mu    sync.Mutex
	known map[string][]*rundpb.LocalAttachment // guarded by mu
}

func newLocals(c *cni.Client, lo func(string) error) *locals {
	l := &locals{drivers: map[string]Driver{driverNone: none{}}, lo: lo, known: map[string][]*rundpb.LocalAttachment{}}
	if c != nil {
		l.drivers[driverCNI] = plugins{c}
	}
	return l
}

// attach puts a new sandbox on its task's networks. Without any there is nothing
// to do: netd does the rest.
func (l *locals) attach(ctx context.Context, d *rundpb.TaskDesired) error {
	if len(d.GetLocalNetworks()) == 0 {
		return nil
	}
	of := map[string][]*rundpb.LocalNetwork{}
	for _, n := range d.GetLocalNetworks() {
		if l.drivers[n.GetDriver()] == nil {
			return rejected(fmt.Errorf("this node has no networks of driver %s: pin plugins under rund.cni.plugins of its configuration, or keep the service off it by a constraint", n.GetDriver()))
		}
		of[n.GetDriver()] = append(of[n.GetDriver()], n)
	}
	var all []*rundpb.LocalAttachment
	for _, name := range []string{driverNone, driverCNI} {
		if len(of[name]) == 0 {
			continue
		}
		at, err := l.drivers[name].Attach(ctx, d.GetTaskId(), of[name])
		if err != nil {
			if cni.Refused(err) {
				return rejected(err)
			}
			return err
		}
		all = append(all, at...)
	}
	if err := l.lo(d.GetTaskId()); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known[d.GetTaskId()] = all
	return nil
}

// features are what the node's drivers can do now.
func (l *locals) features(ctx context.Context) (out []*taskpb.Feature) {
	for _, name := range slices.Sorted(maps.Keys(l.drivers)) {
		list, err := l.drivers[name].Features(ctx)
		if err != nil {
			list = []*taskpb.Feature{{Name: name, Detail: err.Error()}}
		}
		out = append(out, list...)
	}
	return out
}

// of is what came of attach.
func (l *locals) of(task string) []*rundpb.LocalAttachment {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known[task]
}

func (l *locals) forget(task string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.known, task)
}

// release is for a task that ended: its addresses are free at once, though its
// sandbox stays until it is removed.
func (l *locals) release(task string) {
	l.forget(task)
	for _, d := range l.drivers {
		d.Release(task)
	}
}

// detach is for a sandbox that is about to go. What fails goes on without it.
func (l *locals) detach(ctx context.Context, task string) error {
	l.forget(task)
	for _, d := range l.drivers {
		if err := d.Detach(ctx, task); err != nil && ctx.Err() != nil {
			return err
		}
	}
	return nil
}

// adopt takes over the tasks of an earlier run.
func (l *locals) adopt(ctx context.Context, tasks []string) error {
	for _, d := range l.drivers {
		at, err := d.Keep(ctx, tasks)
		if err != nil {
			return err
		}
		l.mu.Lock()
		for task, a := range at {
			l.known[task] = append(l.known[task], a...)
		}
		l.mu.Unlock()
	}
	return nil
}

// none is a network with nothing in it but the loopback interface.
type none struct{}

func (none) Attach(_ context.Context, _ string, networks []*rundpb.LocalNetwork) ([]*rundpb.LocalAttachment, error) {
	var out []*rundpb.LocalAttachment
	for _, n := range networks {
		out = append(out, &rundpb.LocalAttachment{NetworkId: n.GetId(), Interface: "lo"})
	}
	return out, nil
}
func (none) Detach(context.Context, string) error { return nil }
func (none) Release(string)                       {}
func (none) Features(context.Context) ([]*taskpb.Feature, error) {
	return []*taskpb.Feature{{Name: "net:none", Present: true}}, nil
}
func (none) Keep(context.Context, []string) (map[string][]*rundpb.LocalAttachment, error) {
	return nil, nil
}

// plugins is CNI.
type plugins struct{ c *cni.Client }

func (p plugins) Attach(ctx context.Context, task string, networks []*rundpb.LocalNetwork) ([]*rundpb.LocalAttachment, error) {
	var list []*cnipb.Network
	for _, n := range networks {
		list = append(list, &cnipb.Network{Id: n.GetId(), Conflist: n.GetOptions()["conflist"], Index: n.GetIndex()})
	}
	at, err := p.c.Attach(ctx, task, list)
	return localAttachments(at)[task], err
}

func (p plugins) Detach(ctx context.Context, task string) error { return p.c.Detach(ctx, task) }
func (p plugins) Release(task string)                           { p.c.Release(task) }

func (p plugins) Keep(ctx context.Context, tasks []string) (map[string][]*rundpb.LocalAttachment, error) {
	at, err := p.c.Keep(ctx, tasks)
	return localAttachments(at), err
}

// Features has one of each conflist.
func (p plugins) Features(ctx context.Context) (out []*taskpb.Feature, err error) {
	list, err := p.c.List(ctx)
	for _, c := range list {
		f := &taskpb.Feature{Name: "cni:" + c.GetName(), Present: c.GetError() == "", Detail: c.GetError()}
		if f.Present {
			f.Detail = "plugins " + strings.Join(c.GetPlugins(), ", ")
		}
		out = append(out, f)
	}
	return out, err
}

func localAttachments(at []*cnipb.Attachment) map[string][]*rundpb.LocalAttachment {
	out := map[string][]*rundpb.LocalAttachment{}
	for _, a := range at {
		out[a.GetTaskId()] = append(out[a.GetTaskId()], &rundpb.LocalAttachment{
			NetworkId: a.GetNetworkId(), Interface: a.GetInterface(), Addresses: a.GetAddresses(), Mac: a.GetMac()})
	}
	return out
}

// checkLocalNetworks refuses what no driver is to see.
func checkLocalNetworks(list []*rundpb.LocalNetwork) error {
	if len(list) > maxLocalNetworks {
		return fmt.Errorf("%d networks of this node: at most %d are allowed", len(list), maxLocalNetworks)
	}
	seen := map[string]bool{}
	for _, n := range list {
		index := fmt.Sprint(n.GetIndex())
		if !ident.Valid(n.GetId()) || seen[n.GetId()] || seen[index] {
			return fmt.Errorf("network %.60q of this node has no id, or id or index is given twice", n.GetId())
		}
		seen[n.GetId()], seen[index] = true, true
		takes := map[string][]string{driverCNI: {"conflist"}, driverNone: nil}
		want, ok := takes[n.GetDriver()]
		if !ok {
			return fmt.Errorf("networks of driver %.60q cannot be made on a node", n.GetDriver())
		}
		if n.GetDriver() == driverNone && len(list) > 1 {
			return errors.New("a task on a network of driver none is on no other: leave one out")
		}
		for k := range n.GetOptions() {
			if !slices.Contains(want, k) {
				return fmt.Errorf("network option %.60q is unknown to driver %s", k, n.GetDriver())
			}
		}
		if len(n.GetOptions()) != len(want) {
			return fmt.Errorf("a network of driver %s needs the option %s", n.GetDriver(), want[0])
		}
	}
	return nil
}
