package control

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// TestMerge: whatever the order in which the nodes' pieces arrive, they leave
// in the order of their times as long as no node is slower than patience, each
// task's in its own order always, and none is lost.
func TestMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMerger(time.Second)
		now := time.Unix(1000, 0)
		tasks := []string{"a", "b", "c"}
		m.take(logEvent{begin: tasks}, now)
		sent := map[string][]int64{}
		var got []*controlpb.ServiceLogsResponse
		slow, open := false, map[string]bool{"a": true, "b": true, "c": true}
		clock := int64(0)
		drain := func() {
			for {
				p, _ := m.next(now)
				if p == nil {
					return
				}
				got = append(got, p)
			}
		}
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			id := rapid.SampledFrom(tasks).Draw(t, "task")
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				now = now.Add(2 * time.Second)
				slow = true
			case 1:
				if open[id] {
					delete(open, id)
					m.take(logEvent{end: id}, now)
				}
			default:
				if open[id] {
					clock++
					sent[id] = append(sent[id], clock)
					m.take(logEvent{piece: &controlpb.ServiceLogsResponse{TaskId: id, At: clock, Data: []byte("x")}}, now)
				}
			}
			drain()
		}
		m.close()
		drain()
		out := map[string][]int64{}
		var all []int64
		for _, p := range got {
			out[p.TaskId] = append(out[p.TaskId], p.At)
			all = append(all, p.At)
		}
		if fmt.Sprint(out) != fmt.Sprint(sent) {
			t.Fatalf("sent %v, got %v", sent, out)
		}
		if !slow && !slices.IsSorted(all) {
			t.Fatalf("not in order: %v", all)
		}
	})
}

// TestMergeOutOfOrder: a task whose pieces come late is waited for, up to
// patience, and up to the bound on what is held.
func TestMergeOutOfOrder(t *testing.T) {
	now := time.Unix(1000, 0)
	at := func(id string, at int64, size int) logEvent {
		return logEvent{piece: &controlpb.ServiceLogsResponse{TaskId: id, At: at, Data: make([]byte, size)}}
	}
	m := newMerger(time.Second)
	m.take(logEvent{begin: []string{"a", "b"}}, now)
	m.take(at("a", 5, 1), now)
	if p, wait := m.next(now); p != nil || wait != time.Second {
		t.Fatalf("sent %v, wait %v before b was heard", p, wait)
	}
	m.take(at("b", 3, 1), now)
	if p, _ := m.next(now); p.GetTaskId() != "b" {
		t.Fatalf("first is %v", p)
	}
	if p, _ := m.next(now.Add(time.Second)); p.GetTaskId() != "a" {
		t.Fatalf("after patience: %v", p)
	}
	m.take(at("a", 6, logMergeBytes), now)
	if p, _ := m.next(now); p == nil {
		t.Fatal("held more than the bound")
	}
	if m.bytes != 0 {
		t.Errorf("%d bytes are counted of an empty queue", m.bytes)
	}
}
