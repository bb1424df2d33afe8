package audit

import (
	"context"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/strangers"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/pki/authz"
)

// Denials makes records of calls that were refused: one at once where a caller is
// refused what it was not within the minute, and one at the minute's end that says
// how often since. Who is refused more kinds of calls than are counted apart is
// counted by its name. Who did not say who it is is counted by the source it called
// from, and has a record at the minute's end alone. So nobody can fill the log, nor
// slow others down, by being refused; and who is not known takes no place of those who
// are. It may be used concurrently; somebody runs Run.
type Denials struct {
	log *Log
	// send commits records, or has the leader do it.
	send func(context.Context, []*auditpb.Record) error
	// lost is told of records that were not committed.
	lost func(records int, err error)

	kick chan struct{} // capacity 1: something is due at once

	mu     sync.Mutex // guards the rest
	counts map[denied]*count
	held   [tables]int // counts by their table
	firsts int         // records of this minute that were due at once
}

// denied is what refusals are counted by. Without anything else than a table it stands
// for all that there is no other place for in that.
type denied struct {
	table             table
	who, method, host string
}

// table is one of those that share places.
type table int

const (
	byCall   table = iota // what a known caller is refused
	byName                // a known caller, whatever else it is refused
	bySource              // callers that are not known
	tables
)

// places are how many are told apart within a minute.
var places = [tables]int{byCall: maxDenied, byName: maxDeniedNames, bySource: maxDeniedSources}

// rest reports whether it stands for what there is no other place for.
func (k denied) rest() bool { return k == denied{table: k.table} }

type count struct {
	record *auditpb.Record
	times  uint32 // not sent
	due    bool   // at once
}

// NewDenials returns one for the manager of l.
func NewDenials(l *Log, send func(context.Context, []*auditpb.Record) error, lost func(records int, err error)) *Denials {
	return &Denials{log: l, send: send, lost: lost, kick: make(chan struct{}, 1), counts: map[denied]*count{}}
}

// Refused counts a refusal. It never waits.
func (d *Denials) Refused(id authz.Identity, method, reason string) {
	known := id.NodeID != "" || id.Person != "" || id.User != "" || id.LocalRoot
	source := "nowhere"
	if at, ok := strangers.SourceOf(id.Source); ok {
		source = strings.TrimSuffix(strangers.SourceKey(at), "/32")
	} else if id.Source != nil {
		source = addressOf(id.Source)
	}
	keys := []denied{{table: bySource, host: source}, {table: bySource}}
	if known {
		keys = []denied{{byCall, id.String(), method, source}, {table: byName, who: id.String()}, {table: byName}}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var key denied
	var c *count
	for _, key = range keys {
		if c = d.counts[key]; c != nil || key.rest() || d.held[key.table] < places[key.table] {
			break
		}
	}
	if c == nil {
		c = &count{record: &auditpb.Record{Request: ident.New()[:12], Outcome: auditpb.Outcome_OUTCOME_DENIED, Reason: clip(reason, maxReason),
			Caller: &auditpb.Caller{Name: "callers that are not known", Manager: d.log.Manager}}}
		switch {
		case key.rest() && known:
			c.record.Caller.Name = "callers beyond those that are counted"
		case key.rest():
			c.record.Caller.Name = "callers that are not known, beyond those that are counted"
		case key.table == byCall:
			c.record.Caller, c.record.Method = d.log.caller(id), clip(strings.TrimPrefix(method, "/"), maxValue)
		case key.table == byName:
			c.record.Caller, c.record.Reason = d.log.caller(id), clip("several calls, the first of them: "+reason, maxReason)
		default:
			c.record.Caller.Address = clip(source, maxValue)
		}
		if c.due = known && d.firsts < maxDeniedAtOnce; c.due {
			d.firsts++
			select {
			case d.kick <- struct{}{}:
			default:
			}
		}
		d.counts[key] = c
		if !key.rest() {
			d.held[key.table]++
		}
	}
	c.times++
}

// take returns the records that are due, at the minute's end all.
func (d *Denials) take(all bool) (out []*auditpb.Record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.counts {
		if c.times > 0 && (all || c.due) {
			r := proto.CloneOf(c.record)
			r.Times, c.times, c.due = c.times, 0, false
			out = append(out, r)
		}
	}
	if all {
		clear(d.counts)
		d.held, d.firsts = [tables]int{}, 0
	}
	return out
}

// Run sends what is due until ctx ends, and then what is left.
func (d *Denials) Run(ctx context.Context) error {
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	for {
		all := false
		select {
		case <-d.kick:
		case <-minute.C:
			all = true
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTimeout)
			defer cancel()
			d.flush(late, true)
			return ctx.Err()
		}
		d.flush(ctx, all)
	}
}

func (d *Denials) flush(ctx context.Context, all bool) {
	records := d.take(all)
	if len(records) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, aloneTimeout)
	defer cancel()
	if err := d.send(ctx, records); err != nil {
		d.lost(len(records), err)
	}
}

// Commit appends records of refusals, this manager's or those that manager from
// told of. It is the leader's.
func (l *Log) Commit(ctx context.Context, from string, records []*auditpb.Record) error {
	for _, r := range records[:min(len(records), maxDenied+maxDeniedNames+maxDeniedSources+int(tables))] {
		told := &auditpb.Record{Request: clip(r.GetRequest(), maxObject), Outcome: auditpb.Outcome_OUTCOME_DENIED, Method: clip(r.GetMethod(), maxValue),
			Reason: clip(r.GetReason(), maxReason), Times: r.GetTimes(), Caller: proto.CloneOf(r.GetCaller())}
		if told.Caller == nil {
			told.Caller = &auditpb.Caller{}
		}
		told.Caller.Manager = from
		if proto.Size(told) > maxDeniedBytes {
			told.Caller = &auditpb.Caller{Name: "a caller of whom too much was told", Manager: from}
		}
		if err := l.alone(ctx, told); err != nil {
			return err
		}
	}
	return nil
}
