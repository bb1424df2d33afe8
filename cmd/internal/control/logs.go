package control

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// LogSource brings tasks' output from their nodes: a *dispatcher.Dispatcher.
type LogSource interface {
	Logs(ctx context.Context, r dispatcher.LogRequest) iter.Seq2[*schedulerpb.LogChunk, error]
}

// ServiceLogs streams the output of a service's tasks, or of one task. When it
// follows a service it also takes up the tasks that are begun later, and those
// whose node was away, and it ends when the service is removed.
func (s *Server) ServiceLogs(req *controlpb.ServiceLogsRequest, stream controlpb.Control_ServiceLogsServer) error {
	l := &logReader{s: s, req: req, sources: map[string]*logSource{}, events: make(chan logEvent)}
	if req.GetFollow() && req.GetUntil() != 0 {
		return apierr.Invalid("leave one out", "logs cannot be followed and end at a time")
	}
	var first []string
	err := s.view(stream.Context(), func(r *raftstore.ReadTx) (err error) {
		if err = l.resolve(r); err == nil {
			first, _ = l.look(r)
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(first)+len(l.unread) == 0 && !req.GetFollow() {
		if run := req.GetRun(); run != 0 {
			return apierr.NotFound("see `redoubt service ps`", "%s has no task of run %d whose output can be read", req.GetTarget(), run)
		}
		return apierr.NotFound("see `redoubt service ps`", "%s has no task whose output can be read", req.GetTarget())
	}
	g, ctx := errgroup.WithContext(stream.Context())
	g.Go(func() error { return l.send(ctx, stream.Send) })
	g.Go(func() error {
		defer close(l.events)
		return l.run(ctx, first)
	})
	return g.Wait()
}

// logReader is one caller. follow's goroutine owns it, but for the channels.
type logReader struct {
	s       *Server
	req     *controlpb.ServiceLogsRequest
	service string                // id; empty: of one task only
	task    string                // id
	sources map[string]*logSource // by task
	events  chan logEvent
	unread  []string // tasks whose node is away, of which nobody was told yet or again
}

// logSource is one task that is or was read.
type logSource struct {
	name, node    string
	nodeID        string
	service       string
	live          bool
	endedAt       int64 // by its node, 0: it has not
	reading, done bool
	last          int64     // when the last piece was written, 0: nothing was read
	again         time.Time // not before
	said          string    // the last error told
}

// resolve finds what is asked for: a service, or where there is none, a task.
func (l *logReader) resolve(r raftstore.Reader) error {
	svc, err := schedstore.ResolveService(r, l.req.GetTarget())
	if err == nil {
		l.service = svc.GetId()
		return l.checkRun(r, svc)
	}
	t, terr := schedstore.ResolveTask(r, l.req.GetTarget())
	switch {
	case terr == nil && l.req.GetRun() != 0:
		return apierr.Invalid("leave the run out, or name the job", "%s is one task, of one run", l.req.GetTarget())
	case terr == nil:
		l.task = t.GetId()
		return nil
	case strings.Contains(l.req.GetTarget(), "."):
		return terr
	}
	return err
}

// checkRun refuses a run that the service has not.
func (l *logReader) checkRun(r raftstore.Reader, svc *schedulerpb.Service) error {
	n, name := l.req.GetRun(), svc.GetSpec().GetName()
	if n == 0 {
		return nil
	}
	if err := schedstore.CheckJob(svc); err != nil {
		return err
	}
	run, ok := schedstore.ServiceRuns.Get(r, schedstore.RunID(svc.GetId(), n))
	switch {
	case !ok:
		return apierr.NotFound("see `redoubt service runs "+name+"`", "job %s has no run %d that is kept", name, n)
	case run.GetState() == schedstore.RunMissed:
		return apierr.State("", "run %d of job %s was missed: it wrote nothing", n, name)
	}
	return nil
}

// look returns the tasks to read that are not being read, and whether there may
// be more later. Also a task that ended is read: why a container keeps failing
// stands in its last words.
func (l *logReader) look(r raftstore.Reader) (ids []string, more bool) {
	now := time.Now()
	consider := func(t *schedulerpb.Task) {
		if t.GetNodeId() == "" {
			return
		}
		src := l.sources[t.GetId()]
		if src == nil {
			if schedstore.State(t) < schedulerpb.TaskState_TASK_STATE_STARTING || !schedstore.Live(t) && t.GetStatus().GetContainerId() == "" {
				return // there is no output (yet)
			}
			svc, _ := schedstore.Services.Get(r, t.GetServiceId())
			src = &logSource{live: schedstore.Live(t), endedAt: endedAt(t), name: schedstore.TaskName(svc.GetSpec().GetName(), t), node: nodeName(r, t.GetNodeId()), nodeID: t.GetNodeId(), service: t.GetServiceId()}
			if t.GetSlot() == 0 && src.node != "" {
				src.name = svc.GetSpec().GetName() + "." + src.node
			}
			if run := t.GetIteration(); run != 0 {
				src.name += fmt.Sprintf("#%d", run)
			}
			l.sources[t.GetId()] = src
		}
		// What ended while it was away has said all it will.
		switch n, _ := schedstore.Nodes.Get(r, t.GetNodeId()); {
		case src.reading || src.done || now.Before(src.again):
		case schedstore.State(t) == schedstore.Orphaned, !schedstore.Up(n):
			l.unread = append(l.unread, t.GetId())
		default:
			src.reading = true
			ids = append(ids, t.GetId())
		}
	}
	if l.service == "" {
		t, ok := schedstore.Tasks.Get(r, l.task)
		if ok {
			consider(t)
		}
		return ids, ok && schedstore.Live(t)
	}
	live := false
	for t := range schedstore.OfService(r, l.service) {
		if run := l.req.GetRun(); run == 0 || run == t.GetIteration() {
			live = live || schedstore.Live(t)
			consider(t)
		}
	}
	if _, more = schedstore.Services.Get(r, l.service); more && l.req.GetRun() != 0 {
		run, ok := schedstore.ServiceRuns.Get(r, schedstore.RunID(l.service, l.req.GetRun()))
		more = live || ok && run.GetState() == schedstore.RunGoing
	}
	slices.Sort(ids)
	return ids, more
}

// endedAt is when the task ended by its node's word; 0: it has not.
func endedAt(t *schedulerpb.Task) int64 {
	if schedstore.Live(t) {
		return 0
	}
	return t.GetStatus().GetAt()
}

// sayUnread tells of tasks whose node is away: what ended there is not read any more.
func (l *logReader) sayUnread(ctx context.Context) error {
	unread := l.unread
	l.unread = nil
	for _, id := range unread {
		l.sources[id].done = !l.sources[id].live
		if err := l.missing(ctx, id, "its node is away"); err != nil {
			return err
		}
	}
	return nil
}

// missing tells once why a task is not read, where it may have written something that
// was asked for.
func (l *logReader) missing(ctx context.Context, id, why string) error {
	src := l.sources[id]
	if src.said == why || !src.live && src.endedAt < l.req.GetSince() {
		return nil
	}
	src.said = why
	return l.tell(ctx, logEvent{piece: &controlpb.ServiceLogsResponse{TaskId: id, TaskName: src.name, NodeName: src.node, Error: why, Gone: !src.live}})
}

// run reads the first tasks and, where asked to follow, those that come later,
// until there can be none. It returns when every read has ended.
func (l *logReader) run(ctx context.Context, first []string) error {
	ctx, stop := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	defer g.Wait()
	defer stop()
	ends := make(chan logEnd)
	changed := make(chan struct{}, 1)
	if l.req.GetFollow() {
		g.Go(func() error { return l.watch(ctx, changed) })
	}
	if err := l.sayUnread(ctx); err != nil {
		return err
	}
	l.begin(ctx, g, first, l.req.GetSince(), l.req.GetTail(), ends)
	open, more := len(first), l.req.GetFollow()
	retry := time.NewTicker(logRetry)
	defer retry.Stop()
	for open > 0 || more {
		select {
		case e := <-ends:
			open--
			if err := l.ended(ctx, e); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		case <-retry.C:
		}
		if !l.req.GetFollow() {
			continue
		}
		var ids []string
		if err := l.s.c.Store.View(func(r *raftstore.ReadTx) error { ids, more = l.look(r); return nil }); err != nil {
			return err
		}
		if err := l.sayUnread(ctx); err != nil {
			return err
		}
		open += len(ids)
		for _, id := range ids {
			// One that broke off goes on after its last; a new one is read whole.
			since := int64(0)
			if last := l.sources[id].last; last > 0 {
				since = last
			}
			l.begin(ctx, g, []string{id}, since, -1, ends)
		}
	}
	return nil
}

// watch says when there may be something new to read.
func (l *logReader) watch(ctx context.Context, changed chan<- struct{}) error {
	for {
		w, err := l.s.c.Store.Watch(func(*raftstore.ReadTx) error { return nil }, schedstore.Services, schedstore.ServiceRuns, schedstore.Tasks, schedstore.Nodes)
		for err == nil {
			select {
			case changed <- struct{}{}:
			default:
			}
			_, err = w.Next(ctx)
		}
		if w != nil {
			w.Close()
		}
		if ctx.Err() != nil {
			return nil // run ended it, or knows
		}
		if !errors.Is(err, raftstore.ErrLagged) {
			return err
		}
	}
}

// logEnd is how the read of one task ended.
type logEnd struct {
	task string
	last int64  // of its last piece, 0: there was none
	err  string // there may be more
}

// ended takes note, and says once what went wrong.
func (l *logReader) ended(ctx context.Context, e logEnd) error {
	src := l.sources[e.task]
	if err := l.tell(ctx, logEvent{end: e.task}); err != nil {
		return err
	}
	src.reading, src.last, src.again = false, max(src.last, e.last), time.Now().Add(logRetry)
	src.done = e.err == "" || !src.live
	if e.err == "" {
		return nil
	}
	return l.missing(ctx, e.task, e.err)
}

// begin reads some tasks in a goroutine of its own, which tells the end of each.
func (l *logReader) begin(ctx context.Context, g *errgroup.Group, ids []string, since, tail int64, ends chan<- logEnd) {
	if len(ids) == 0 {
		return
	}
	if err := l.tell(ctx, logEvent{begin: ids}); err != nil {
		return // run sees it, too
	}
	from := map[string]logSource{}
	for _, id := range ids {
		from[id] = *l.sources[id]
	}
	g.Go(func() error {
		last := map[string]int64{}
		ask := dispatcher.LogRequest{TaskIDs: ids, Follow: l.req.GetFollow(), Since: since, Until: l.req.GetUntil(), Tail: tail}
		for chunk, err := range l.s.c.Logs.Logs(ctx, ask) {
			if err != nil {
				return err
			}
			id := chunk.GetTaskId()
			if len(chunk.GetData()) > 0 || chunk.GetError() != "" && !chunk.GetEof() {
				answer := &controlpb.ServiceLogsResponse{TaskId: id, TaskName: from[id].name, NodeName: from[id].node,
					At: chunk.GetAt(), Stderr: chunk.GetStderr(), Data: chunk.GetData(), NodeId: from[id].nodeID, ServiceId: from[id].service}
				if !chunk.GetEof() {
					answer.Error = chunk.GetError()
				}
				if err := l.tell(ctx, logEvent{piece: answer}); err != nil {
					return err
				}
				last[id] = max(last[id], chunk.GetAt())
			}
			if _, asked := from[id]; !chunk.GetEof() || !asked {
				continue
			}
			select {
			case ends <- logEnd{id, last[id], chunk.GetError()}:
				delete(from, id)
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
}
