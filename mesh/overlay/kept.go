package overlay

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/strictjson"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// A redoubtd that is started anew while all managers are away would know no peer and
// no network: nobody would hear that a task of this node failed, and it would hear
// of nobody else's. So netd keeps for it, in memory, what this process knows (kept),
// and gives it to the next one. It is on no disk: a machine that was restarted knows
// nothing until a manager spoke, as before, and neither does one whose netd died as
// well.
//
// It is believed only as long as netd was told nothing since, by the generations of
// both declarations; netd itself ends it when a peer is taken away. So it is never
// older than what the kernel has, and brings nobody back. With the first word of a
// manager it means nothing any more.
type kept struct {
	// Layout is that of these types: another version's are not guessed at.
	Layout string
	// Owner is this member (Config.Owner).
	Owner string
	// Overlay and Ingress are the generations that netd had.
	Overlay, Ingress uint64
	// Heard is when a manager was heard last, Unix seconds.
	Heard int64
	View  *View
	Tasks []Task
	// Made are the networks with a namespace.
	Made []string
}

// layout names the types that are kept, down to their fields.
var layout = sync.OnceValue(func() string {
	seen := map[reflect.Type]bool{}
	var b bytes.Buffer
	var walk func(t reflect.Type)
	walk = func(t reflect.Type) {
		b.WriteString(t.String() + ";")
		if seen[t] {
			return
		}
		seen[t] = true
		switch t.Kind() {
		case reflect.Map:
			walk(t.Key())
			walk(t.Elem())
		case reflect.Pointer, reflect.Slice, reflect.Array:
			walk(t.Elem())
		case reflect.Struct:
			for i := range t.NumField() {
				if f := t.Field(i); f.IsExported() {
					b.WriteString(f.Name + " ")
					walk(f.Type)
				}
			}
		}
	}
	walk(reflect.TypeFor[kept]())
	sum := sha256.Sum256(b.Bytes())
	return hex.EncodeToString(sum[:])
})

func (k *kept) encode() ([]byte, error) {
	var b bytes.Buffer
	z, err := flate.NewWriter(&b, flate.BestSpeed)
	if err == nil {
		err = json.NewEncoder(z).Encode(k)
	}
	if err == nil {
		err = z.Close()
	}
	if err == nil && b.Len() > maxNote {
		err = fmt.Errorf("%d bytes exceed the limit of %d", b.Len(), maxNote)
	}
	return b.Bytes(), err
}

var errKept = errors.New("what netd kept is not understood")

// parseKept takes what encode makes, of the same version and owner.
func parseKept(b []byte, owner string) (*kept, error) {
	z := flate.NewReader(bytes.NewReader(b))
	defer z.Close()
	text, err := io.ReadAll(io.LimitReader(z, maxKept+1))
	if err != nil || len(text) > maxKept {
		return nil, errKept
	}
	var head struct{ Layout, Owner string }
	if json.Unmarshal(text, &head) != nil {
		return nil, errKept
	}
	switch {
	case head.Layout != layout():
		return nil, errors.New("what netd kept is another version's")
	case owner == "" || head.Owner != owner:
		return nil, errors.New("what netd kept is of another membership")
	}
	var k kept
	if strictjson.Decode(text, &k) != nil || k.View == nil {
		return nil, errKept
	}
	if err := k.check(); err != nil {
		return nil, fmt.Errorf("what netd kept is refused: %w", err)
	}
	return &k, nil
}

// check refuses what a manager's word would not have passed with.
func (k *kept) check() error {
	v := k.View
	if !ident.Valid(v.Self.ID) || !v.Self.Mesh.Addr().Is4() {
		return errors.New("it is of no node in the mesh")
	}
	for _, a := range v.Reach.Nodes {
		if !a.IsGlobalUnicast() || a.Zone() != "" {
			return fmt.Errorf("node at %s", a)
		}
	}
	for _, p := range v.Reach.Published {
		if p.Number == 0 {
			return errors.New("a published port without a number")
		}
	}
	for id, p := range v.Peers {
		if p.ID != id || !ident.Valid(id) || p.Mesh.IsValid() && !p.Mesh.Addr().Is4() {
			return fmt.Errorf("peer %.40q", id)
		}
	}
	for id, n := range v.Networks {
		if n == nil || n.ID != id || !ident.Valid(id) || n.VNI >= 1<<24 || len(n.Subnets) > 2 {
			return fmt.Errorf("network %.40q", id)
		}
		for task, e := range n.Endpoints {
			if !ident.Valid(task) || !ident.Valid(e.Node) || !ident.Valid(e.Service) || !e.Addrs[0].IsValid() || !n.Within(e.Addrs) {
				return fmt.Errorf("task %.40q of network %s", task, id)
			}
		}
		for service, s := range n.Services {
			if !ident.Valid(service) || ident.CheckName(s.Name) != nil || !n.Within(s.VIPs) {
				return fmt.Errorf("service %.40q of network %s", service, id)
			}
		}
	}
	for _, p := range v.Pools {
		if !p.IsValid() || p != p.Masked() {
			return fmt.Errorf("pool %s", p)
		}
	}
	for _, t := range k.Tasks {
		if !ident.Valid(t.ID) {
			return fmt.Errorf("task %.40q", t.ID)
		}
	}
	return nil
}

// runNote begins with what netd kept, and then has it keep what there is.
func (m *Manager) runNote(ctx context.Context) error {
	if m.cfg.Owner == "" {
		<-ctx.Done()
		return ctx.Err()
	}
	tick := time.NewTimer(0)
	defer tick.Stop()
	recalled := false
	var sum []byte    // of what netd was given
	var serial uint64 // of what that was
	trouble := ""     // said last
	for pause := noteEvery; ; tick.Reset(pause) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		began := time.Now()
		var err error
		if !recalled {
			recalled, err = m.recall(ctx)
		} else {
			sum, serial, err = m.note(ctx, sum, serial)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			trouble = ""
		case err.Error() != trouble:
			trouble = err.Error()
			m.cfg.Logger.Warn("a redoubtd started anew would wait for managers", "err", err)
		}
		pause = max(noteEvery, checkShare*time.Since(began))
	}
}

// note has netd keep what there is, where it has something else. sum is of what it
// was given last, serial of what that was.
func (m *Manager) note(ctx context.Context, sum []byte, serial uint64) ([]byte, uint64, error) {
	has, err := m.noted(ctx, &netdpb.NoteRequest{})
	if err != nil {
		return sum, serial, err
	}
	m.mu.Lock()
	heard := m.heardLast()
	now := m.serial + m.netd.generation + m.ingress.generation + uint64(heard/heardNote)
	if m.said == nil || !m.known || m.netd.told == nil || m.ingress.told == nil || now == serial && len(sum) > 0 && bytes.Equal(has.GetSum(), sum) {
		m.mu.Unlock()
		return sum, serial, nil
	}
	k := &kept{Layout: layout(), Owner: m.cfg.Owner, Overlay: m.netd.generation, Ingress: m.ingress.generation, Heard: heard,
		View: m.said, Tasks: slices.Clone(m.tasks), Made: slices.Sorted(maps.Keys(m.made))}
	m.mu.Unlock()
	data, err := k.encode() // nothing of it changes any more
	if err != nil {
		data = []byte{} // rather nothing than what was
	}
	resp, err2 := m.noted(ctx, &netdpb.NoteRequest{Keep: data})
	if err2 != nil {
		return nil, 0, err2
	}
	return resp.GetSum(), now, err
}

// heardLast is when a manager was heard last, Unix seconds.
func (m *Manager) heardLast() int64 {
	if m.cfg.Heard == nil {
		return 0
	}
	return max(m.cfg.Heard().Unix(), 0)
}

// recall begins with what netd kept, where that is to be believed; done: there is
// nothing more to be hoped for.
func (m *Manager) recall(ctx context.Context) (done bool, err error) {
	m.mu.Lock()
	done = m.said != nil
	m.mu.Unlock()
	if done {
		return true, nil
	}
	note, err := m.noted(ctx, &netdpb.NoteRequest{Read: true})
	if err != nil {
		return false, err
	}
	if len(note.GetNote()) == 0 {
		return true, nil
	}
	k, err := parseKept(note.GetNote(), m.cfg.Owner)
	if err != nil {
		return true, err
	}
	networks, err := m.state(ctx, &netdpb.OverlayStateRequest{WithoutCounters: true})
	if err != nil {
		return false, err
	}
	ports, err := m.IngressState(ctx)
	switch {
	case err != nil:
		return false, err
	case networks.GetGeneration() != k.Overlay || ports.GetGeneration() != k.Ingress:
		return true, errors.New("netd was told more than it kept")
	case m.cfg.Until != nil && !time.Now().Before(m.cfg.Until()):
		return true, errors.New("this node's certificate has ended")
	}
	m.mu.Lock()
	if m.said == nil && !m.known && m.made == nil {
		m.cfg.Logger.Info("going on with what the former process knew, until a manager speaks", "networks", len(k.View.Networks), "tasks", len(k.Tasks))
		m.made, m.unmade = map[string]bool{}, map[string]string{}
		for _, id := range k.Made {
			m.made[id] = true
		}
		for id := range k.View.Networks {
			if !m.made[id] {
				m.unmade[id] = "waiting for rund to make its namespace"
			}
		}
		m.recalled = map[string]Task{}
		for _, t := range k.Tasks {
			m.recalled[t.ID] = t
		}
		m.tasks, m.known = k.Tasks, true
		if m.cfg.Recalled != nil {
			m.cfg.Recalled(time.Unix(min(k.Heard, time.Now().Unix()), 0))
		}
		m.say(k.View)
	}
	m.mu.Unlock()
	m.wake()
	return true, nil
}

// Seen takes the sandboxes that rund says there are, and which of them are sound,
// while it is not known what managers want of them: those that the former process
// knew go on, as long as they do. With the first SetTasks it means nothing any more.
func (m *Manager) Seen(sound map[string]bool) {
	m.mu.Lock()
	if m.recalled == nil {
		m.mu.Unlock()
		return
	}
	var tasks []Task
	for _, id := range slices.Sorted(maps.Keys(m.recalled)) {
		t := m.recalled[id]
		serves, there := sound[id]
		if !there {
			continue
		}
		t.Serving = t.Serving && serves
		tasks = append(tasks, t)
	}
	same := m.setTasks(tasks)
	m.mu.Unlock()
	if !same {
		m.wake()
	}
}

func (m *Manager) noted(ctx context.Context, req *netdpb.NoteRequest) (*netdpb.NoteResponse, error) {
	resp, err := m.callNetd(ctx, &netdpb.Request{Verb: &netdpb.Request_Note{Note: req}})
	if err != nil {
		return nil, err
	}
	if resp.GetNote() == nil {
		return nil, errors.New("netd answered Note with something else")
	}
	return resp.GetNote(), nil
}
