package dispatcher

import (
	"context"
	"errors"
	"fmt"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// A question waits for one answer of one session.
type question struct {
	from   *session
	answer chan *schedulerpb.MeshAnswer // capacity 1
}

// Errors of Mesh, for callers that know more words for them.
var (
	ErrAway   = errors.New("the node is not connected")
	ErrNoMesh = errors.New("the node is no part of a mesh: its version has none, or it shares no network with others yet")
)

// meshFeature is what a node says to have that understands the question. One of an
// older version would end its session.
const meshFeature = "mesh"

// Mesh asks a node for its end of the tunnels and, with rotate, to begin to change
// its WireGuard key first.
func (d *Dispatcher) Mesh(ctx context.Context, node string, rotate bool) (*schedulerpb.MeshState, error) {
	knows := false
	if err := d.config.Store.View(func(tx *raftstore.ReadTx) error {
		n, _ := store.Nodes.Get(tx, node)
		for _, f := range n.GetDescription().GetFeatures() {
			knows = knows || f.GetName() == meshFeature
		}
		return nil
	}); err != nil {
		return nil, err
	}
	id := ident.New()
	q, err := d.ask(id, node, knows, rotate)
	if err != nil {
		return nil, err
	}
	defer func() {
		d.mu.Lock()
		delete(d.questions, id)
		d.mu.Unlock()
	}()
	ctx, cancel := context.WithTimeout(ctx, meshPatience)
	defer cancel()
	select {
	case a := <-q.answer:
		if a == nil {
			return nil, ErrAway
		}
		if a.Error != "" {
			return nil, errors.New(a.Error)
		}
		return a.State, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("the node did not answer: %w", ctx.Err())
	}
}

func (d *Dispatcher) ask(id, node string, knows, rotate bool) (*question, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.members[node]
	switch {
	case d.term == nil:
		return nil, errNotLeading
	case m == nil || m.session == nil:
		return nil, ErrAway
	case !knows:
		return nil, ErrNoMesh
	case len(d.questions) >= maxQuestions:
		return nil, errors.New("too many nodes are being asked: try again later")
	}
	q := &question{m.session, make(chan *schedulerpb.MeshAnswer, 1)}
	d.questions[id] = q
	m.session.control(&schedulerpb.ManagerMessage{Message: &schedulerpb.ManagerMessage_Mesh{Mesh: &schedulerpb.MeshRequest{Id: id, RotateKey: rotate}}})
	return q, nil
}

// answered takes a node's answer. One that nobody waits for is dropped.
func (s *session) answered(a *schedulerpb.MeshAnswer) {
	clean := &schedulerpb.MeshAnswer{Error: oneline.Text(a.GetError(), maxMessageText), State: cleanMesh(a.GetState())}
	if clean.State == nil && clean.Error == "" {
		clean.Error = "the node answered nothing"
	}
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	if q := s.d.questions[a.GetId()]; q != nil && q.from == s {
		delete(s.d.questions, a.GetId())
		q.answer <- clean
	}
}

// unanswered ends the questions to a session that is over. d.mu is held.
func (d *Dispatcher) unanswered(s *session) {
	for id, q := range d.questions {
		if q.from == s {
			delete(d.questions, id)
			q.answer <- nil
		}
	}
}

// cleanMesh bounds what a node says. All of it is shown, and nothing done with it.
func cleanMesh(in *schedulerpb.MeshState) *schedulerpb.MeshState {
	if in == nil {
		return nil
	}
	text := func(s string) string { return oneline.Text(s, maxMessageText) }
	out := &schedulerpb.MeshState{Address: text(in.Address), Interface: text(in.Interface), Driver: text(in.Driver), Mode: text(in.Mode),
		Mtu: in.Mtu, Repairs: in.Repairs, LeftOut: in.LeftOut, ListenPort: in.ListenPort, ChangingKey: in.ChangingKey, OwnKeyNs: in.OwnKeyNs,
		Dropped: map[string]uint64{}}
	if len(in.PublicKey) == 32 {
		out.PublicKey = in.PublicKey
	}
	for _, t := range in.Degraded[:min(len(in.Degraded), maxMeshLines)] {
		out.Degraded = append(out.Degraded, text(t))
	}
	for reason, n := range in.Dropped {
		if len(out.Dropped) < maxMeshLines {
			out.Dropped[text(reason)] = n
		}
	}
	for _, p := range in.Peers[:min(len(in.Peers), schedulerpb.MaxMeshPeers)] {
		out.Peers = append(out.Peers, &schedulerpb.MeshPeerState{NodeId: text(p.GetNodeId()), Address: text(p.GetAddress()), Endpoint: text(p.GetEndpoint()),
			HandshakeNs: p.HandshakeNs, ReceivedBytes: p.GetReceivedBytes(), SentBytes: p.GetSentBytes(), KeyNs: p.KeyNs, Error: text(p.GetError()),
			Mtu: p.GetMtu(), Degraded: text(p.GetDegraded())})
	}
	return out
}
