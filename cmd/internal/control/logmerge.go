package control

import (
	"cmp"
	"container/heap"
	"context"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// logEvent is a piece of output, or the news that tasks begin or cease to be
// read.
type logEvent struct {
	piece *controlpb.ServiceLogsResponse
	begin []string
	end   string
}

func (l *logReader) tell(ctx context.Context, e logEvent) error {
	select {
	case l.events <- e:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// send gives the caller the pieces in the order of their times.
func (l *logReader) send(ctx context.Context, send func(*controlpb.ServiceLogsResponse) error) error {
	m := newMerger(logPatience)
	if l.req.GetFollow() {
		m.patience = logFollowPatience
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	events := l.events
	for {
		for {
			p, wait := m.next(time.Now())
			if p == nil {
				if wait > 0 {
					timer.Reset(wait)
				}
				break
			}
			if err := send(p); err != nil {
				return err
			}
		}
		if events == nil {
			return nil // and all is sent
		}
		select {
		case e, ok := <-events:
			if !ok {
				events = nil
				m.close()
				continue
			}
			m.take(e, time.Now())
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// merger puts the output of several tasks in the order of its times. It holds
// a piece until nothing older can come: every task that is read has something
// waiting. A task that is silent, or a node that is slow, holds the others up
// for patience at most, and never for more than logMergeBytes.
type merger struct {
	patience time.Duration
	queue    pieces
	waiting  map[string]int   // pieces in the queue of each task that is read
	silent   int              // of those, tasks that have none
	latest   map[string]int64 // a task's pieces keep their order whatever its clock says
	bytes    int
	count    uint64
	closed   bool
}

type piece struct {
	p       *controlpb.ServiceLogsResponse
	at      int64
	n       uint64
	arrived time.Time
}

func newMerger(patience time.Duration) *merger {
	return &merger{patience: patience, waiting: map[string]int{}, latest: map[string]int64{}}
}

// close says that no more will come.
func (m *merger) close() { m.closed = true }

func (m *merger) take(e logEvent, now time.Time) {
	for _, id := range e.begin {
		if _, ok := m.waiting[id]; !ok {
			m.waiting[id] = 0
			m.silent++
		}
	}
	if n, ok := m.waiting[e.end]; ok && e.end != "" {
		if n == 0 {
			m.silent--
		}
		delete(m.waiting, e.end)
		delete(m.latest, e.end)
	}
	if e.piece == nil {
		return
	}
	id := e.piece.GetTaskId()
	at := max(e.piece.GetAt(), m.latest[id])
	if n, ok := m.waiting[id]; ok {
		if n == 0 {
			m.silent--
		}
		m.waiting[id]++
		m.latest[id] = at
	}
	m.count++
	m.bytes += len(e.piece.GetData()) + logPieceBytes
	heap.Push(&m.queue, piece{e.piece, at, m.count, now})
}

// next is the piece to send now; nil: none, look again after wait, 0 being when
// something was taken.
func (m *merger) next(now time.Time) (p *controlpb.ServiceLogsResponse, wait time.Duration) {
	if len(m.queue) == 0 {
		return nil, 0
	}
	first := m.queue[0]
	if held := now.Sub(first.arrived); m.silent > 0 && !m.closed && m.bytes <= logMergeBytes && held < m.patience {
		return nil, m.patience - held
	}
	heap.Pop(&m.queue)
	m.bytes -= len(first.p.GetData()) + logPieceBytes
	if n, ok := m.waiting[first.p.GetTaskId()]; ok && n > 0 {
		if n == 1 {
			m.silent++
		}
		m.waiting[first.p.GetTaskId()]--
	}
	return first.p, 0
}

type pieces []piece

func (q pieces) Len() int { return len(q) }
func (q pieces) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(q[i].at, q[j].at), cmp.Compare(q[i].n, q[j].n)) < 0
}
func (q pieces) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *pieces) Push(x any)   { *q = append(*q, x.(piece)) }
func (q *pieces) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}
