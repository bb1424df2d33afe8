package rund

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Relays are processes of redoubt-proxy in a container, one a port that is
// published with the PROXY protocol. The shim is their parent, so they go on while
// rund is away, and end with the container. What they are told are arguments: a
// port that changes is another process, and leaves the others alone.

// labelRelays is what was last desired of them, for a rund that is told nothing.
const labelRelays = "redoubt.relays"

const relayPrefix = "redoubt-proxy-"

type relay struct {
	want    *rundpb.Relay
	process containerd.Process // nil: none runs
	ended   chan struct{}      // closed when it did, or that cannot be told
	lost    error              // it cannot be told: set before ended is closed
	since   time.Time
	failed  string
	fails   int
	next    time.Time // not before
}

// relays are those of one container; its worker's goroutine owns them.
type relays struct {
	wanted *rundpb.Relays // nil: nobody said
	had    bool           // some were started, perhaps by an earlier rund
	known  bool           // those that run are
	all    map[string]*relay
	ctx    context.Context // of what waits for them, once they are known
	cancel context.CancelFunc
	waits  sync.WaitGroup
}

// reached reports whether entry nodes lead clients to the task.
func reached(spec *taskpb.TaskSpec) bool {
	return slices.ContainsFunc(spec.GetPorts(), func(p *taskpb.Port) bool { return p.GetMode() == taskpb.Port_MODE_INGRESS })
}

// relayName is different for relays that differ in anything.
func relayName(r *rundpb.Relay) string {
	b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	sum := sha256.Sum256(b)
	return relayPrefix + hex.EncodeToString(sum[:12])
}

// recall takes what an earlier rund was told.
func (r *relays) recall(labels map[string]string) {
	text, told := labels[labelRelays]
	r.had = r.had || told
	if r.wanted != nil || !told {
		return
	}
	b, err := base64.StdEncoding.DecodeString(text)
	want := &rundpb.Relays{}
	if err == nil && proto.Unmarshal(b, want) == nil {
		r.wanted = want
	}
}

// forget is for a container that has ended, or is to be looked at anew.
func (r *relays) forget() {
	if r.cancel != nil {
		r.cancel()
	}
	r.waits.Wait()
	r.known, r.all, r.ctx, r.cancel = false, nil, nil, nil
}

// due comes when a relay is to be started again; nil: none is.
func (w *worker) due() <-chan time.Time {
	if w.phase() != rundpb.Phase_PHASE_RUNNING {
		return nil
	}
	var at time.Time
	for _, l := range w.relays.all {
		if l.process == nil && (at.IsZero() || l.next.Before(at)) {
			at = l.next
		}
	}
	if at.IsZero() {
		return nil
	}
	return time.After(time.Until(at))
}

// tendRelays makes those of a container whose program runs what they should be. It
// ends early where the container is to end.
func (w *worker) tendRelays(ctx context.Context, d *rundpb.TaskDesired) error {
	if w.phase() != rundpb.Phase_PHASE_RUNNING || d.GetRelays() == nil && w.relays.wanted == nil {
		return nil
	}
	actx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.mu.Lock()
	w.abort = cancel
	changed := w.desired != d
	w.mu.Unlock()
	defer func() { w.mu.Lock(); w.abort = nil; w.mu.Unlock() }()
	if changed {
		return nil // wake is pending
	}
	want := d.GetRelays()
	if want != nil && !proto.Equal(want, w.relays.wanted) {
		if err := w.admitRelays(d); err != nil {
			w.log.Error("relays refused", "err", err)
			want = nil // as before
		}
	}
	if err := w.makeRelays(ctx, actx, want); err != nil && actx.Err() == nil {
		return err
	}
	return ctx.Err()
}

// makeRelays gives up with ctx; whole is that of the container.
func (w *worker) makeRelays(whole, ctx context.Context, want *rundpb.Relays) error {
	r := &w.relays
	if want != nil && !proto.Equal(want, r.wanted) {
		if err := checkRelays(want); err != nil { // of a later agent, perhaps
			w.log.Error("relays refused", "err", err)
			return nil
		}
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(want)
		if err == nil && (r.wanted != nil || len(want.GetRelays()) > 0) {
			err = w.label(ctx, labelRelays, base64.StdEncoding.EncodeToString(b))
		}
		if err != nil {
			return err
		}
		r.wanted, r.had = want, r.had || len(want.GetRelays()) > 0
	}
	if !r.known && r.had {
		if err := w.findRelays(whole, ctx); err != nil {
			return err
		}
	}
	named := map[string]*rundpb.Relay{}
	for _, x := range r.wanted.GetRelays() {
		named[relayName(x)] = x
	}
	for name, l := range r.all {
		if named[name] != nil {
			continue
		}
		if err := w.endRelay(ctx, l.process); err != nil {
			return fmt.Errorf("end a relay: %w", err)
		}
		delete(r.all, name)
	}
	for _, name := range slices.Sorted(maps.Keys(named)) {
		if r.all[name] == nil {
			r.all[name] = &relay{want: named[name]}
		}
		w.tendRelay(ctx, name, r.all[name])
	}
	w.tellRelays(named)
	return nil
}

func (w *worker) tendRelay(ctx context.Context, name string, l *relay) {
	if l.process != nil {
		select {
		case <-l.ended:
		default:
			return
		}
		l.process = nil
		if l.lost != nil { // containerd went away: perhaps it runs
			w.relays.known = false
			w.rouse()
			return
		}
		if time.Since(l.since) > relayLived {
			l.fails = 0
		}
		l.fail(errors.New("it ended"))
		w.log.Warn("a relay ended", "port", l.want.GetPublished())
	}
	if time.Now().Before(l.next) {
		return
	}
	if err := w.startRelay(ctx, name, l); err != nil && ctx.Err() == nil {
		l.process = nil
		l.fail(err)
		w.log.Warn("a relay does not start", "port", l.want.GetPublished(), "err", err)
	}
}

func (l *relay) fail(err error) {
	l.failed = fmt.Sprintf("the PROXY protocol of port %d: %s", l.want.GetPublished(), plainRuntimeError(err))
	l.next = time.Now().Add(min(relayRetryMin<<min(l.fails, 16), relayRetryMax))
	l.fails++
}

// tellRelays publishes how they are.
func (w *worker) tellRelays(named map[string]*rundpb.Relay) {
	var now []*rundpb.RelayState
	for _, name := range slices.Sorted(maps.Keys(named)) {
		l := w.relays.all[name]
		now = append(now, &rundpb.RelayState{Relay: l.want, Listening: l.process != nil, Error: l.failed})
	}
	if !slices.EqualFunc(now, w.state.GetRelays(), func(a, b *rundpb.RelayState) bool { return proto.Equal(a, b) }) {
		w.state.Relays = now
		w.s.hub.set(w.state)
	}
}

// findRelays learns of those that run.
func (w *worker) findRelays(whole, ctx context.Context) error {
	cctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	w.relays.forget()
	w.relays.all = map[string]*relay{}
	w.relays.ctx, w.relays.cancel = context.WithCancel(whole)
	running, err := w.task.Pids(cctx)
	if err != nil {
		return fmt.Errorf("list the processes of the container: %w", err)
	}
	for _, p := range running {
		var d options.ProcessDetails
		if p.Info == nil || typeurl.UnmarshalTo(p.Info, &d) != nil || !strings.HasPrefix(d.ExecID, relayPrefix) {
			continue
		}
		process, err := w.task.LoadProcess(cctx, d.ExecID, nil)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		l := &relay{since: time.Now()}
		for _, x := range w.relays.wanted.GetRelays() {
			if relayName(x) == d.ExecID {
				l.want = x
			}
		}
		if err := w.followRelay(l, process); err != nil {
			return err
		}
		// It listens, or ends in this moment: it takes its port first of all.
		l.process = process
		w.relays.all[d.ExecID] = l
	}
	w.relays.known = true
	return nil
}

// followRelay has the worker woken when the process ends.
func (w *worker) followRelay(l *relay, p containerd.Process) error {
	exit, err := p.Wait(w.relays.ctx)
	if err != nil {
		return err
	}
	l.ended, l.lost = make(chan struct{}), nil
	ended := l.ended
	w.relays.waits.Go(func() {
		st := <-exit // of a wait that was cancelled, too
		l.lost = st.Error()
		close(ended)
		w.rouse()
	})
	return nil
}

func (w *worker) endRelay(ctx context.Context, p containerd.Process) error {
	if p == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return endProcess(ctx, p)
}

func checkRelays(want *rundpb.Relays) error {
	if n := len(want.GetRelays()); n > maxRelays {
		return fmt.Errorf("%d relays: at most %d are possible", n, maxRelays)
	}
	ports := map[uint32]bool{}
	for _, r := range want.GetRelays() {
		for _, n := range []uint32{r.GetListen(), r.GetPublished(), r.GetTarget()} {
			if n == 0 || n > 65535 {
				return fmt.Errorf("port %d of a relay is none", n)
			}
		}
		if ports[r.GetListen()] {
			return fmt.Errorf("two relays listen on port %d", r.GetListen())
		}
		ports[r.GetListen()] = true
		addrs := r.GetAddresses()
		if len(addrs) == 0 || len(addrs) > 2 {
			return fmt.Errorf("a relay listens on %d addresses: one or two", len(addrs))
		}
		if r.GetHost() != "" {
			addrs = append(slices.Clone(addrs), r.GetHost())
		}
		for _, text := range addrs {
			if a, err := netip.ParseAddr(text); err != nil || a.String() != text || a.Zone() != "" || a.Is4In6() {
				return fmt.Errorf("%.60q is no address of a relay", text)
			}
		}
	}
	return nil
}
