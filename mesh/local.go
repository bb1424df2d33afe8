package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// LocalConfig says what Local works with. Subnet and DNS come from the node's
// configuration.
type LocalConfig struct {
	Netd   Caller
	Subnet netip.Prefix
	// DNS are the name servers containers are given, at most three.
	DNS []netip.Addr
	// Managers says where the managers are, host:port, which containers are kept
	// away from. Where its answer changes, Check is false. Nil: none.
	Managers func() []string
	// Pools are addresses that no client has, in order; likewise. Empty: what netd
	// was told before holds.
	Pools func() []netip.Prefix
	// Reach is what containers reach of nodes; not said: likewise.
	Reach  func() (r Reach, said bool)
	Logger *slog.Logger
}

// Local manages the node bridge. It is safe for concurrent use; Sync calls
// take turns.
type Local struct {
	config LocalConfig
	gen    Generation

	mu   sync.Mutex // guards pool; never held during a call to netd
	pool *pool

	turn             chan struct{}  // one Sync or Check at a time; guards the following
	applied          uint64         // generation netd has, 0: none known
	keptOff          []string       // managers as that generation had them
	pools            []netip.Prefix // likewise
	reach            *Reach         // likewise; nil: nothing was said of it
	strayed          strayed
	repairs, meddled uint64 // as netd counted them last
}

// NewLocal checks the configuration; it does not speak to netd yet.
func NewLocal(c LocalConfig) (*Local, error) {
	p, err := newPool(c.Subnet)
	if err != nil {
		return nil, err
	}
	if c.Netd == nil {
		return nil, errors.New("mesh: no netd to speak to")
	}
	if len(c.DNS) > maxDNS {
		return nil, fmt.Errorf("%d DNS servers given: resolvers use at most %d", len(c.DNS), maxDNS)
	}
	for _, a := range c.DNS {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" {
			return nil, fmt.Errorf("DNS server %q is not a usable address", a)
		}
		// A container's loopback is its own.
		if a.IsLoopback() {
			return nil, fmt.Errorf("DNS server %s is a loopback address that containers cannot reach: give another", a)
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Local{config: c, pool: p, turn: make(chan struct{}, 1)}, nil
}

// Gateway is the node's own address on the bridge.
func (l *Local) Gateway() netip.Prefix {
	return netip.PrefixFrom(l.pool.gateway, l.pool.subnet.Bits())
}

// Reserve gives the task its endpoint, the same at every call until Release.
func (l *Local) Reserve(taskID string) (Endpoint, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, err := l.pool.reserve(taskID)
	if err != nil {
		return Endpoint{}, err
	}
	return Endpoint{
		MAC:     slices.Clone(r.mac),
		Address: netip.PrefixFrom(r.addr, l.pool.subnet.Bits()),
		Gateway: l.pool.gateway,
		DNS:     slices.Clone(l.config.DNS),
	}, nil
}

// Adopt records the endpoint that the task's container already has.
func (l *Local) Adopt(taskID string, e Endpoint) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.pool.adopt(taskID, e.MAC, e.Address); err != nil {
		return fmt.Errorf("task %s cannot keep its endpoint: %w", taskID, err)
	}
	return nil
}

// Release gives the task's addresses back. The caller has seen a Sync without
// the task succeed.
func (l *Local) Release(taskID string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pool.release(taskID)
}

// Sync makes netd's state the given one: exactly these tasks are attached. The
// map holds the tasks for which that failed, and why; the error is about the
// whole, after which nothing is known and Sync is to be called again.
func (l *Local) Sync(ctx context.Context, attached []Attachment) (map[string]error, error) {
	if err := l.take(ctx); err != nil {
		return nil, err
	}
	defer func() { <-l.turn }()

	pools := l.poolsNow()
	reach := l.reachNow()
	req := &netdpb.ApplyRequest{Generation: l.gen.Next(), BridgeAddress: l.Gateway().String(), Managers: l.managers(), Pools: netdpb.PoolsOf(pools),
		Reach: reach.message(l.config.DNS)}
	failed := l.endpoints(req, attached)
	l.applied = 0
	resp, err := l.call(ctx, &netdpb.Request{Verb: &netdpb.Request_Apply{Apply: req}})
	if err != nil {
		return nil, err
	}
	apply := resp.GetApply()
	if apply == nil {
		return nil, errors.New("netd answered Apply with something else")
	}
	answers := make(map[string]string, len(apply.Results))
	for _, r := range apply.Results {
		answers[r.TaskId] = r.Error
	}
	for _, e := range req.Endpoints {
		switch text, ok := answers[e.TaskId]; {
		case !ok:
			failed[e.TaskId] = errors.New("netd did not say whether the task is attached")
		case text != "":
			failed[e.TaskId] = errors.New(text)
		}
	}
	l.applied, l.keptOff, l.pools, l.reach = req.Generation, req.Managers, pools, reach
	return failed, nil
}

// poolsNow are those of the configuration.
func (l *Local) poolsNow() []netip.Prefix {
	if l.config.Pools == nil {
		return nil
	}
	return l.config.Pools()
}

// managers are those of the configuration in one order, at most as many as netd
// takes.
func (l *Local) managers() []string {
	if l.config.Managers == nil {
		return nil
	}
	out := slices.Clone(l.config.Managers())
	slices.Sort(out)
	out = slices.Compact(out)
	if len(out) > maxManagers {
		l.config.Logger.Warn("containers are kept away from some of the managers only", "managers", len(out), "at_most", maxManagers)
		out = out[:maxManagers]
	}
	return out
}

// endpoints fills req and returns the attachments that cannot be asked for.
func (l *Local) endpoints(req *netdpb.ApplyRequest, attached []Attachment) map[string]error {
	l.mu.Lock()
	defer l.mu.Unlock()
	failed := map[string]error{}
	ports := 0
	for _, a := range attached {
		r, ok := l.pool.tasks[a.TaskID]
		switch {
		case !ok:
			failed[a.TaskID] = errors.New("the task has no address reserved")
			continue
		case len(a.Ports) > maxPorts:
			failed[a.TaskID] = fmt.Errorf("%d published ports: at most %d are possible", len(a.Ports), maxPorts)
			continue
		case ports+len(a.Ports) > maxTotalPorts:
			failed[a.TaskID] = fmt.Errorf("the tasks of this node publish %d ports already: at most %d are possible", ports, maxTotalPorts)
			continue
		}
		ports += len(a.Ports)
		e := &netdpb.Endpoint{
			TaskId:  a.TaskID,
			Netns:   a.Netns,
			Mac:     r.mac.String(),
			Address: netip.PrefixFrom(r.addr, l.pool.subnet.Bits()).String(),
		}
		for _, p := range a.Ports {
			pp := &netdpb.PublishedPort{Published: uint32(p.Published), Target: uint32(p.Target), Udp: p.UDP}
			if p.HostIP.IsValid() {
				pp.HostIp = p.HostIP.String()
			}
			e.Ports = append(e.Ports, pp)
		}
		req.Endpoints = append(req.Endpoints, e)
	}
	slices.SortFunc(req.Endpoints, func(a, b *netdpb.Endpoint) int { return strings.Compare(a.TaskId, b.TaskId) })
	return failed
}

// Check reports whether netd still has what Sync gave it last, and that is still
// right. It is false after a restart of netd, and when there are other managers
// other pools, nodes or published ports: Sync again.
func (l *Local) Check(ctx context.Context) (bool, error) {
	if err := l.take(ctx); err != nil {
		return false, err
	}
	defer func() { <-l.turn }()
	resp, err := l.call(ctx, &netdpb.Request{Verb: &netdpb.Request_State{State: &netdpb.StateRequest{}}})
	if err != nil {
		return false, err
	}
	state := resp.GetState()
	if state == nil {
		return false, errors.New("netd answered State with something else")
	}
	if state.Repairs > l.repairs {
		l.config.Logger.Warn("netd found its packet filter changed by somebody else and restored it",
			"times", state.Repairs-l.repairs)
	}
	l.repairs = state.Repairs
	l.strayed.seen(state.Strayed, time.Now(), l.config.Logger)
	// Somebody is to hear of it: whoever declares again looks at the node, too.
	meddled := state.RulesMeddled > l.meddled
	l.meddled = state.RulesMeddled
	return !meddled && l.applied != 0 && state.Generation == l.applied && slices.Equal(l.keptOff, l.managers()) && slices.Equal(l.pools, l.poolsNow()) && l.sameReach(), nil
}

// Probe asks netd what the kernel can do.
func (l *Local) Probe(ctx context.Context) ([]Feature, error) {
	resp, err := l.call(ctx, &netdpb.Request{Verb: &netdpb.Request_Probe{Probe: &netdpb.ProbeRequest{}}})
	if err != nil {
		return nil, err
	}
	if resp.GetProbe() == nil {
		return nil, errors.New("netd answered Probe with something else")
	}
	var out []Feature
	for _, f := range resp.GetProbe().Features {
		out = append(out, Feature{f.Name, f.Present, f.Required, f.Detail})
	}
	return out, nil
}

func (l *Local) call(ctx context.Context, req *netdpb.Request) (*netdpb.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp := &netdpb.Response{}
	if err := l.config.Netd.Call(ctx, req, resp); err != nil {
		return nil, fmt.Errorf("netd is not answering: %w", err)
	}
	if e := resp.GetError(); e != nil {
		return nil, fmt.Errorf("netd refused: %s", e.Message)
	}
	return resp, nil
}

func (l *Local) take(ctx context.Context) error {
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
