package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock/autolockpb"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

var (
	errOldTicket     = errors.New("its ticket is older than the newest that it had: its disk is an old copy; open it with what people have")
	errNoTicketKnown = errors.New("it has not reported yet which ticket is its newest, so an old copy of its disk could not be told from it: open it with what people have; then others can")
)

// judgeTicket decides whether a manager gets what its ticket holds. rec is how it was
// released before, or refused; newest is what it last reported of its own tickets;
// shown is what keyd found in the ticket; session and from are who asks. Refused is
// nil where it gets it. The record is to be committed first, also where it is refused;
// nil where nothing is new.
func judgeTicket(rec *autolockpb.Release, newest *schedulerpb.TicketState, shown *keydpb.ReleaseResponse, session []byte, from string) (_ *autolockpb.Release, refused error) {
	generation := shown.GetGeneration()
	switch {
	case newest.GetGeneration() == 0 || newest.GetSlotId() != shown.GetSlotId():
		refused = errNoTicketKnown
	case generation < max(newest.GetGeneration(), rec.GetGeneration()):
		refused = errOldTicket
	case generation > rec.GetGeneration():
		// One above the newest was made after the last report.
		return &autolockpb.Release{Meta: rec.GetMeta(), Id: shown.GetNodeId(), Generation: generation, Session: session, Address: from}, nil
	case bytes.Equal(rec.GetSession(), session):
		return nil, nil // an answer was lost
	default:
		refused = fmt.Errorf("its ticket was used already, from %s: it was opened by that and lost its power before it had another one, or somebody else has its disk (`redoubt events`)", rec.GetAddress())
	}
	if rec.GetRefused() == from {
		return nil, refused // told of
	}
	next := &autolockpb.Release{Id: shown.GetNodeId()}
	if rec != nil {
		next = proto.CloneOf(rec)
	}
	next.Refused = from
	return next, refused
}

// noteTicket has managers told which ticket is the newest, so that no older one is
// taken. It is called whenever keyd may have sealed a new state.
func (m *managerState) noteTicket(ctx context.Context) {
	m.ticketMu.Lock()
	defer m.ticketMu.Unlock()
	st, err := m.n.keyd.Status(ctx)
	if err != nil {
		return // others say what is wrong with keyd
	}
	var now *schedulerpb.TicketState
	if len(st.GetTicket()) > 0 {
		t := new(keydpb.Ticket)
		if err := proto.Unmarshal(st.GetTicket(), t); err != nil {
			m.n.log.Error("keyd's ticket was not understood: after the next start only people open this manager", "err", err)
			return
		}
		now = &schedulerpb.TicketState{SlotId: t.GetSlotId(), Generation: t.GetGeneration()}
	}
	if was := m.ticket.Swap(now); !proto.Equal(was, now) {
		m.n.lookAgain()
	}
}
