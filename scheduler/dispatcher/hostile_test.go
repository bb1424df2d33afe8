package dispatcher

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
)

const notReady = schedulerpb.NodeState_NODE_STATE_NOT_READY

func lacking(detail string) *schedulerpb.AgentMessage {
	m := hello()
	m.GetHello().Description.Features = []*taskpb.Feature{{Name: "rund", Required: true, Detail: detail}}
	return m
}

// A node that says it lacks something required is up, and not ready; it is
// given its time by a new leader as others are.
func TestNotReady(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		c := w.connect(n)
		c.send(lacking("does not answer"))
		w.settle(time.Second)
		w.wantNode(n, notReady)
		if got := w.node(n).GetMessage(); got != "it cannot run tasks: rund does not answer" {
			t.Errorf("message %q", got)
		}
		c.beat(time.Minute)
		w.wantNode(n, notReady)
		c.send(hello())
		w.settle(time.Second)
		w.wantNode(n, ready)
		if got := w.node(n); got.GetMessage() != "" || got.GetDescription().GetFeatures() != nil {
			t.Errorf("node %v", got)
		}
		c.send(lacking("again"))
		w.settle(time.Second)
		w.stop()
		w.settle(time.Minute)
		w.lead()
		w.settle(14 * time.Second)
		w.wantNode(n, notReady)
		w.settle(2 * time.Second)
		w.wantNode(n, down)
		c.wantEnd(codes.Unavailable)
	})
}

// What a node's name is was decided when it was admitted; what this version
// does not know of a description is not kept.
func TestDescriptionsAreOwnWordOnly(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		w.update(func(tx *raftstore.Tx) error { return pkistore.Nodes.Put(tx, &pkipb.Node{Id: n, Name: "worker-7"}) })
		m := hello()
		d := m.GetHello().Description
		d.Hostname = "vault-1"
		d.Resources = &taskpb.Resources{NanoCpus: 1e9}
		unknown := protowire.AppendVarint(protowire.AppendTag(nil, 4000, protowire.VarintType), 1)
		d.ProtoReflect().SetUnknown(unknown)
		d.Resources.ProtoReflect().SetUnknown(unknown)
		c := w.connect(n)
		c.send(m)
		w.settle(time.Second)
		w.wantNode(n, ready)
		got := w.node(n).GetDescription()
		if got.GetHostname() != "worker-7" || len(got.ProtoReflect().GetUnknown())+len(got.Resources.ProtoReflect().GetUnknown()) > 0 {
			t.Errorf("stored %v", got)
		}
	})
}

// A node that says the same state again and again in other words is not given
// the log for it; its states still pass.
func TestWordsAreBounded(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		task := w.addTask(n)
		c := w.session(n)
		c.send(report(store.Running, task))
		w.settle(time.Second)
		before := w.store.AppliedIndex()
		for range 100 { // only the time differs
			m := report(store.Running, task)
			m.GetStatus().Reports[0].Status.At = time.Now().UnixNano()
			c.send(m)
			w.settle(50 * time.Millisecond)
		}
		if n := w.store.AppliedIndex() - before; n != 0 {
			t.Errorf("the time alone made %d entries", n)
		}
		const rounds = 2000
		for i := range rounds {
			m := report(store.Running, task)
			m.GetStatus().Reports[0].Status.Message = fmt.Sprint(i)
			c.send(m)
			w.settle(50 * time.Millisecond)
		}
		most := repeatBurst + uint64(rounds*50/1000*repeatRate) + 1
		if n := w.store.AppliedIndex() - before; n > most {
			t.Errorf("words alone made %d entries, at most %d are for them", n, most)
		}
		c.send(report(store.Failed, task))
		w.settle(time.Second)
		if s := store.State(w.task(task)); s != store.Failed {
			t.Errorf("the task is %v", s)
		}
	})
}

// A new voter's address reaches the nodes within a second.
func TestManagersAreSpread(t *testing.T) {
	inWorld(t, func(w *world) {
		list := make(chan []string, 1)
		list <- []string{"m1:2377"}
		w.d.config.Managers = func() []string {
			l := <-list
			list <- l
			return l
		}
		c := w.session(w.addNode())
		w.settle(time.Second)
		<-list
		list <- []string{"m1:2377", "m2:2377"}
		w.settle(time.Second)
		c.mu.Lock()
		defer c.mu.Unlock()
		last := ""
		for _, m := range c.got {
			if l := m.GetManagers(); l != nil {
				last = strings.Join(l.Addresses, " ")
			}
		}
		if last != "m1:2377 m2:2377" {
			t.Errorf("the node knows %q", last)
		}
	})
}
