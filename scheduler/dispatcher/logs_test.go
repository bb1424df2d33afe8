package dispatcher

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

func TestLogs(t *testing.T) {
	inWorld(t, func(w *world) {
		n, silent := w.addNode(), w.addNode()
		here, there := w.addTask(n), w.addTask(silent)
		c := w.session(n)
		var got []*schedulerpb.LogChunk
		done := make(chan error, 1)
		go func() {
			for chunk, err := range w.d.Logs(w.t.Context(), LogRequest{TaskIDs: []string{here, there, "none"}, Tail: -1}) {
				if err != nil {
					done <- err
					return
				}
				got = append(got, chunk)
			}
			done <- nil
		}()
		synctest.Wait()
		var sub *schedulerpb.LogSubscription
		for _, m := range c.got {
			if l := m.GetLog(); l != nil {
				sub = l
			}
		}
		if sub == nil || len(sub.TaskIds) != 1 || sub.TaskIds[0] != here {
			t.Fatalf("subscription %v", sub)
		}
		chunk := func(task, data string, eof bool) *schedulerpb.AgentMessage {
			return &schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Log{Log: &schedulerpb.LogChunk{
				Subscription: sub.Id, TaskId: task, Data: []byte(data), Eof: eof}}}
		}
		c.send(chunk(here, "hello\n", false))
		c.send(chunk(there, "forged\n", false))
		c.send(chunk(here, "", true))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		text := map[string]string{}
		for _, g := range got {
			text[g.TaskId] += string(g.Data) + g.Error
			if g.Subscription != "" {
				t.Error("internal id shown")
			}
		}
		if text[here] != "hello\n" || !strings.Contains(text[there], "not connected") || !strings.Contains(text["none"], "no such task") {
			t.Errorf("output %q", text)
		}
		if !strings.Contains(w.log.String(), "refused a node's logs") {
			t.Error("the forged chunk was not logged")
		}
	})
}

// A reader that is too slow is told what it missed, and always of the end; a
// session that goes ends what it fed.
func TestLogsSlowReader(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		task := w.addTask(n)
		c := w.session(n)
		sub, err := w.d.subscribe(LogRequest{TaskIDs: []string{task}})
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, maxLogChunk)
		for range subscriptionBytes/maxLogChunk + 10 {
			c.send(&schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Log{Log: &schedulerpb.LogChunk{
				Subscription: sub.id, TaskId: task, Data: data}}})
		}
		synctest.Wait()
		chunks, over := sub.take()
		if over || len(chunks) != subscriptionBytes/maxLogChunk+1 || !strings.HasPrefix(chunks[len(chunks)-1].Error, "10 pieces of output were dropped") {
			t.Errorf("%d chunks, over %v, last %q", len(chunks), over, chunks[len(chunks)-1].Error)
		}
		c.cancel()
		<-c.done
		chunks, over = sub.take()
		if !over || len(chunks) != 1 || !chunks[0].Eof || !strings.Contains(chunks[0].Error, "disconnected") {
			t.Errorf("chunks %v, over %v", chunks, over)
		}
		w.d.unsubscribe(sub)
	})
}
