package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest/linear"
)

// simClient asks one thing after another of any manager.
type simClient struct {
	c     *simCluster
	h     *linear.History
	id    int
	n     int
	rand  *rand.Rand
	seen  map[string]*testpb.Thing // what it read last
	count simCount
}

func (k *simClient) run(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(k.rand.IntN(60)) * time.Millisecond):
		}
		all := k.c.members()
		m := all[k.rand.IntN(len(all))]
		if lead := k.c.leaderNow(); lead != nil && k.rand.IntN(4) > 0 {
			m = lead
		}
		if s := m.current(); s != nil {
			k.one(m, s)
		}
	}
}

var (
	errCondition = errors.New("the condition does not hold")
	// errNoAnswer stands for what a life says after the crash that ended it: of a
	// process that is gone nobody hears, and what it goes on writing is not what
	// the next one finds.
	errNoAnswer = errors.New("the manager crashed before it answered")
)

// one asks s, a life of m, for one thing.
func (k *simClient) one(m *simMember, s *raftstore.Store) {
	k.n++
	in := linear.Input{Kind: simKinds[k.rand.IntN(len(simKinds))], Key: fmt.Sprint("k", k.rand.IntN(simKeys)), Value: fmt.Sprintf("%d.%d", k.id, k.n)}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(50+k.rand.IntN(2000))*time.Millisecond)
	defer cancel()
	if in.Kind == linear.CAS {
		if old := k.seen[in.Key]; old != nil {
			in.Expect = old.GetName()
		} else {
			in.Kind = linear.Read
		}
	}
	byVersion := k.rand.IntN(2) == 0
	// Why fn refuses is decided on this manager's own state, and means something
	// only where that was not behind.
	current := in.Kind == linear.Read || in.Kind != linear.Write && k.rand.IntN(2) == 0
	k.ask(ctx, m, s, in, byVersion, current)
}

func (k *simClient) ask(ctx context.Context, m *simMember, s *raftstore.Store, in linear.Input, byVersion, current bool) {
	old := k.seen[in.Key]
	call := k.h.Begin()
	var err error
	if current {
		err = s.Barrier(ctx)
	}
	var out linear.Output
	var read *testpb.Thing
	if err == nil {
		switch in.Kind {
		case linear.Read:
			err = s.View(func(r *raftstore.ReadTx) error {
				o, ok := things.Get(r, in.Key)
				out = linear.Output{OK: ok, Value: o.GetName(), Version: o.GetMeta().GetVersion()}
				if ok {
					read = o
				}
				return nil
			})
		default:
			err = s.Update(ctx, func(tx *raftstore.Tx) error { return k.write(tx, in, old, byVersion) })
			out.OK = err == nil
			if current && (errors.Is(err, errCondition) || byVersion && in.Kind == linear.CAS && errors.Is(err, raftstore.ErrConflict)) {
				err = nil
			}
		}
	} else if in.Kind != linear.Read {
		err = fmt.Errorf("%w: %w", raftstore.ErrNotLeader, err) // nothing was sent
	}
	if err == nil && m.crashed(s) {
		k.count.unheard++
		err = errNoAnswer
	}
	switch {
	case err == nil:
		k.count.done++
	case in.Kind == linear.Read, errors.Is(err, raftstore.ErrNotLeader), errors.Is(err, raftstore.ErrConflict), errors.Is(err, errCondition):
		k.count.refused++
		return // it has not happened; were that a lie, a reader would see a value that nobody wrote
	default:
		k.count.unknown++
		out = linear.Output{Unknown: true}
	}
	if read != nil {
		k.checkClock(read)
		k.seen[in.Key] = read
	}
	k.h.End(k.id, call, in, out)
}

func (k *simClient) write(tx *raftstore.Tx, in linear.Input, old *testpb.Thing, byVersion bool) error {
	now, ok := things.Get(tx, in.Key)
	next := &testpb.Thing{Id: in.Key}
	switch {
	case in.Kind == linear.CAS && byVersion: // the store compares
		next = proto.Clone(old).(*testpb.Thing)
	case in.Kind == linear.CAS && (!ok || now.GetName() != in.Expect), in.Kind == linear.Delete && !ok:
		return errCondition
	case in.Kind == linear.Delete:
		return things.Delete(tx, in.Key)
	case ok:
		next = proto.Clone(now).(*testpb.Thing)
	}
	next.Name = in.Value
	return things.Put(tx, next)
}
