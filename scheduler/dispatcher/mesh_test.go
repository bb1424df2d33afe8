package dispatcher

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// What a node says of its tunnels is bounded and made harmless before anybody sees it.
func TestMeshAnswersAreCleaned(t *testing.T) {
	if cleanMesh(nil) != nil {
		t.Error("something of nothing")
	}
	in := &schedulerpb.MeshState{Interface: "a\x1b[2Jb", PublicKey: make([]byte, 31), Dropped: map[string]uint64{}}
	for range 2000 {
		in.Peers = append(in.Peers, &schedulerpb.MeshPeerState{NodeId: "x\ny", Error: strings.Repeat("e", 5000)})
		in.Degraded = append(in.Degraded, "d\r")
		in.Dropped[strings.Repeat("r", len(in.Peers))] = 1
	}
	out := cleanMesh(in)
	if len(out.Peers) != schedulerpb.MaxMeshPeers || len(out.Degraded) != maxMeshLines || len(out.Dropped) != maxMeshLines || out.PublicKey != nil {
		t.Errorf("%d peers, %d lines, %d reasons, key %x", len(out.Peers), len(out.Degraded), len(out.Dropped), out.PublicKey)
	}
	if p := out.Peers[0]; strings.ContainsAny(out.Interface+p.NodeId+out.Degraded[0], "\x1b\n\r") || len(p.Error) > maxMessageText {
		t.Errorf("%q %q, %d bytes", out.Interface, p.NodeId, len(p.Error))
	}
}

// An answer counts from the session that was asked, once, and a session that ends
// answers for nothing more.
func TestMeshAnswersAreOfWhoWasAsked(t *testing.T) {
	d := &Dispatcher{questions: map[string]*question{}}
	asked, other := &session{d: d}, &session{d: d}
	q := &question{asked, make(chan proto.Message, 1)}
	d.questions["q"] = q
	other.answeredMesh(&schedulerpb.MeshAnswer{Id: "q", Error: "a lie"})
	asked.answeredMesh(&schedulerpb.MeshAnswer{Id: "p", Error: "to nobody"})
	if len(q.answer) != 0 {
		t.Fatal("somebody else answered")
	}
	asked.answeredMesh(&schedulerpb.MeshAnswer{Id: "q"})
	asked.answeredMesh(&schedulerpb.MeshAnswer{Id: "q"})
	if a := (<-q.answer).(*schedulerpb.MeshAnswer); a.Error != "the node answered nothing" || len(d.questions) != 0 {
		t.Errorf("%v, %d open", a, len(d.questions))
	}
	d.questions["r"] = q
	d.unanswered(other)
	if len(q.answer) != 0 || len(d.questions) != 1 {
		t.Error("another session's end ended it")
	}
	d.unanswered(asked)
	if a := <-q.answer; a != nil || len(d.questions) != 0 {
		t.Errorf("%v", a)
	}
}
