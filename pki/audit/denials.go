package audit

import (
	"context"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/pki/authz"
)

// Denials makes records of calls that were refused: one at once where a caller is
// refused what it was not within the minute, and one at the minute's end that says
// how often since. Who did not say who it is is counted by the host it called from,
// and has a record at the minute's end alone. So nobody can fill the log, nor slow
// others down, by being refused. It may be used concurrently; somebody runs Run.
type Denials struct {
	log *Log
	// send commits records, or has the leader do it.
	send func(context.Context, []*auditpb.Record) error
	// lost is told of records that were not committed.
	lost func(records int, err error)

	kick chan struct{} // capacity 1: something is due at once

	mu     sync.Mutex // guards the rest
	counts map[denied]*count
	firsts int // records of this minute that were due at once
}

// denied is what refusals are counted by.
type denied struct{ who, method, host string }

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
	host := ""
	if id.Source != nil {
		host = addressOf(id.Source)
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
	}
	key := denied{host: host}
	if known {
		key.who, key.method = id.String(), method
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.counts[key]
	if c == nil && len(d.counts) >= maxDenied {
		key = denied{}
		c = d.counts[key]
	}
	if c == nil {
		c = &count{record: &auditpb.Record{Request: ident.New()[:12], Outcome: auditpb.Outcome_OUTCOME_DENIED,
			Caller: &auditpb.Caller{Name: "callers that are not known", Manager: d.log.Manager, Address: clip(host, maxValue)}}}
		switch {
		case key == denied{}:
			c.record.Caller.Name = "callers beyond those that are counted"
		case known:
			c.record.Caller, c.record.Method = d.log.caller(id), clip(strings.TrimPrefix(method, "/"), maxValue)
		}
		c.record.Reason = clip(reason, maxReason)
		if c.due = known && d.firsts < maxDeniedAtOnce; c.due {
			d.firsts++
			select {
			case d.kick <- struct{}{}:
			default:
			}
		}
		d.counts[key] = c
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
		d.firsts = 0
	}
	return out
}

// Run sends what is due until ctx ends, and then what is left.
func (d *Denials) Run(ctx context.Context) error {
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	for {
		select {
		case <-d.kick:
			d.flush(ctx, false)
		case <-minute.C:
			d.flush(ctx, true)
		case <-ctx.Done():
			return ctx.Err()
		}
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
	for _, r := range records[:min(len(records), maxDenied+1)] {
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
