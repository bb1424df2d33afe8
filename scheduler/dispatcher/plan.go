package dispatcher

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/netview"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
	"google.golang.org/protobuf/proto"
)

// plan turns the store into what one node is told. It remembers what was told
// and compares that with a snapshot, so it does not matter how often or in
// which order it is asked to look at a task.
type plan struct {
	node     string
	cluster  string // its id
	sequence uint64
	sent     map[string]told
	ended    int // of those sent, how many had ended
	// holds is what the node said it holds from an earlier session.
	holds []byte
}

// told is what makes an assignment different from the one sent before.
type told struct {
	desired schedulerpb.TaskState
	ended   bool // for counting; a node knows that itself
	killAt  int64
	files   string // ids of the versions of its secrets and configs
	signed  string // digest of who signed it; empty: nobody
}

// next returns the messages that bring the node up to date: at first the
// complete set, then changes in the tasks named, or in all.
func (p *plan) next(s *raftstore.Store, l *slog.Logger, all bool, dirty map[string]struct{}) ([]*schedulerpb.Assignments, error) {
	var update []*schedulerpb.Assignment
	var remove []string
	err := s.View(func(r *raftstore.ReadTx) error {
		if !all {
			for id := range dirty {
				p.look(r, l, id, &update, &remove)
			}
			return nil
		}
		seen := map[string]bool{}
		for t := range store.Tasks.By(r, "node", p.node) {
			seen[t.Id] = true
			p.look(r, l, t.Id, &update, &remove)
		}
		for id := range p.sent {
			if !seen[id] {
				p.look(r, l, id, &update, &remove)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(update, func(a, b *schedulerpb.Assignment) int { return cmp.Compare(a.TaskId, b.TaskId) })
	slices.Sort(remove)
	if p.sequence == 0 && len(p.holds) > 0 {
		d, err := schedulerpb.AssignmentsDigest(update)
		if err == nil && bytes.Equal(d, p.holds) {
			p.sequence = 1
			return []*schedulerpb.Assignments{{Complete: true, Sequence: 1, Unchanged: true}}, nil
		}
	}
	return p.split(update, remove), nil
}

// look compares one task with what was sent of it.
func (p *plan) look(r raftstore.Reader, l *slog.Logger, id string, update *[]*schedulerpb.Assignment, remove *[]string) {
	t, ok := store.Tasks.Get(r, id)
	before, known := p.sent[id]
	if !ok || t.NodeId != p.node || store.State(t) < store.Assigned {
		if known {
			p.note(id, told{})
			delete(p.sent, id)
			*remove = append(*remove, id)
		}
		return
	}
	now := told{desired: t.Desired, ended: !store.Live(t)}
	if !known && now.ended && p.ended >= maxEnded {
		return
	}
	if store.State(t) == store.Orphaned {
		now.desired = max(now.desired, store.Shutdown) // its successor runs elsewhere
	}
	if n, ok := store.Nodes.Get(r, p.node); ok && now.desired > store.Running && !now.ended && store.Effective(n) == store.Drain {
		now.killAt = n.GetDrainBy()
	}
	rev, ok := store.Revisions.Get(r, store.RevisionID(t.ServiceId, t.Revision))
	var files []*taskpb.FileVersion
	if ok && now.desired <= store.Running && !now.ended {
		files = versions(r, rev.GetSpec())
		now.files = versionIDs(files)
	}
	var signed []byte
	if ok && now.desired <= store.Running && !now.ended {
		signed = signedFor(r, rev)
		now.signed = digest(signed)
	}
	if known && now.desired == before.desired && now.killAt == before.killAt && now.files == before.files && now.signed == before.signed {
		p.note(id, now)
		return
	}
	a := &schedulerpb.Assignment{
		TaskId: t.Id, ServiceId: t.ServiceId, Slot: t.Slot,
		Desired: now.desired, Observed: store.State(t), KillAt: now.killAt, Attachments: t.Attachments, Files: files, Signed: signed,
	}
	if now.desired > store.Running && store.State(t) == store.Running && len(t.Attachments) > 0 {
		a.WithdrawNs = int64(withdrawal)
	}
	// What ended is not to be begun again by a node that forgot it.
	if !store.Live(t) {
		a.Desired = max(a.Desired, store.Shutdown)
	}
	svc, found := store.Services.Get(r, t.ServiceId)
	if found {
		a.ServiceName = svc.GetSpec().GetName()
	}
	if ok {
		if a.Desired <= store.Running {
			a.Volumes = store.VolumesOf(r, rev.GetSpec().GetContainer())
		}
		if a.Spec = rev.Spec; found && rev.GetSpec().GetContainer().GetTemplated() && a.Desired <= store.Running {
			a.Facts = facts(r, p.cluster, p.node, svc, t)
		}
	} else if a.Desired <= store.Running {
		l.Error("a task's revision is missing, it cannot be started", "task", t.Id, "service", t.ServiceId, "revision", t.Revision)
		return
	}
	p.note(id, now)
	*update = append(*update, a)
}

// note remembers what the node was told of a task.
func (p *plan) note(id string, now told) {
	if p.sent[id].ended {
		p.ended--
	}
	if now.ended {
		p.ended++
	}
	p.sent[id] = now
}

// split numbers the change and cuts it into messages of bounded size.
func (p *plan) split(update []*schedulerpb.Assignment, remove []string) []*schedulerpb.Assignments {
	first := p.sequence == 0
	if !first && len(update) == 0 && len(remove) == 0 {
		return nil
	}
	var out []*schedulerpb.Assignments
	m := &schedulerpb.Assignments{Complete: first}
	size := 0
	for _, a := range update {
		n := proto.Size(a)
		if len(m.Update) > 0 && (size+n > maxAssignmentBytes || len(m.Update) >= maxAssignments) {
			m.More = first
			out = append(out, m)
			m, size = &schedulerpb.Assignments{}, 0
		}
		m.Update = append(m.Update, a)
		size += n
	}
	out = append(out, m)
	for chunk := range slices.Chunk(remove, maxAssignments*16) {
		if len(m.Remove) > 0 {
			m = &schedulerpb.Assignments{}
			out = append(out, m)
		}
		m.Remove = chunk
	}
	for _, m := range out {
		p.sequence++
		m.Sequence = p.sequence
	}
	return out
}

// route passes every change in the store to the sessions it concerns. It goes on
// from w.
func (d *Dispatcher) route(ctx context.Context, w *raftstore.Watch) error {
	for {
		d.lookAll()
		err := d.follow(ctx, w)
		w.Close()
		if !errors.Is(err, raftstore.ErrLagged) {
			return err
		}
		if w, err = d.watch(); err != nil {
			return err
		}
	}
}

// watch begins with a new index of networks.
func (d *Dispatcher) watch() (*raftstore.Watch, error) {
	var ix *netview.Index
	w, err := d.config.Store.Watch(func(r *raftstore.ReadTx) error { ix = netview.Load(r); return nil }, append(netview.Tables(), secretstore.Secrets, secretstore.Configs, store.ImagePolicies, store.Volumes)...)
	if err == nil {
		d.networks.Store(ix)
	}
	return w, err
}

func (d *Dispatcher) follow(ctx context.Context, w *raftstore.Watch) error {
	for {
		events, err := w.Next(ctx)
		if err != nil {
			return err
		}
		// First the networks: a session that has a task to stop then finds that it
		// serves no more.
		views := d.networks.Load().Observe(events)
		tasks := map[string][]string{}
		var gone, deadlines []string
		files, services, policy, volumes := map[string]bool{}, map[string]bool{}, false, false
		for _, e := range events {
			if old, now, ok := store.Tasks.Event(e); ok {
				id := cmp.Or(old.GetId(), now.GetId())
				if node := cmp.Or(now.GetNodeId(), old.GetNodeId()); node != "" {
					tasks[node] = append(tasks[node], id)
				}
			} else if old, now, ok := store.Nodes.Event(e); ok && now == nil {
				gone = append(gone, old.GetId())
			} else if ok && now.GetDrainBy() != old.GetDrainBy() {
				deadlines = append(deadlines, now.GetId())
			} else if id := fileOf(e); id != "" {
				files[id] = true
			} else if id := resigned(e); id != "" {
				services[id] = true
			} else if _, _, ok := store.ImagePolicies.Event(e); ok {
				policy = true
			} else if _, now, ok := store.Volumes.Event(e); ok && now.GetRemovingSince() != 0 {
				volumes = true
			}
		}
		if err := d.users(files, services, tasks); err != nil {
			return err
		}
		d.mu.Lock()
		for node, ids := range tasks {
			if m := d.members[node]; m != nil && m.session != nil {
				m.session.look(ids...)
			}
		}
		for _, m := range d.members {
			if (policy || volumes) && m.session != nil {
				m.session.lookNetworks()
			}
		}
		for _, id := range views {
			if m := d.members[id]; m != nil && m.session != nil {
				m.session.lookNetworks()
			}
		}
		for _, id := range deadlines {
			if m := d.members[id]; m != nil && m.session != nil {
				m.session.look()
			}
		}
		for _, id := range gone {
			if m := d.members[id]; m != nil {
				if m.session != nil {
					m.session.cancel(errRemoved)
				}
				delete(d.members, id)
			}
		}
		d.mu.Unlock()
	}
}

// lookAll makes every session compare all: changes may have been missed. That
// includes nodes removed meanwhile.
func (d *Dispatcher) lookAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	_ = d.config.Store.View(func(r *raftstore.ReadTx) error {
		for id, m := range d.members {
			if _, ok := store.Nodes.Get(r, id); !ok {
				if m.session != nil {
					m.session.cancel(errRemoved)
				}
				delete(d.members, id)
			} else if m.session != nil {
				m.session.look()
			}
		}
		return nil
	})
}
