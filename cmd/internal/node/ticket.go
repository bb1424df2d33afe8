package node

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock/autolockpb"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// refusal is why a manager is not released that showed its certificate and a ticket.
// It is told of in an event.
type refusal struct {
	reason string // of the event, in a few words
	text   string
}

func (r *refusal) Error() string { return r.text }

var (
	errOldTicket     = &refusal{"old ticket", "its ticket is older than the newest that it had: its disk is an old copy; open it with what people have"}
	errNoTicketKnown = &refusal{"no ticket known", "it has not reported yet which ticket is its newest, so an old copy of its disk could not be told from it: open it with what people have; then others can"}
	errNotHeard      = &refusal{"away too long", "it is not known when it was last heard: open it with what people have"}
)

// tellAgain is how long the same refusal, of the same address, is no news.
const tellAgain = time.Hour

// judgeTicket decides whether a manager gets what its ticket holds. rec is how it was
// released before, or refused; newest is what it last reported of its own tickets;
// shown is the ticket; session and from are who asks. Refused is nil where it gets it.
// The record is to be committed before that; nil where nothing is new.
func judgeTicket(rec *autolockpb.Release, newest *schedulerpb.TicketState, shown *keydpb.ReleaseResponse, session []byte, from string) (*autolockpb.Release, *refusal) {
	generation := shown.GetGeneration()
	switch {
	case newest.GetGeneration() == 0 || newest.GetSlotId() != shown.GetSlotId():
		return nil, errNoTicketKnown
	case generation < max(newest.GetGeneration(), rec.GetGeneration()):
		return nil, errOldTicket
	case generation > rec.GetGeneration():
		// One above the newest was made after the last report.
		return &autolockpb.Release{Meta: rec.GetMeta(), Id: shown.GetNodeId(), Generation: generation, Session: session, Address: from}, nil
	case bytes.Equal(rec.GetSession(), session):
		return nil, nil // an answer was lost
	}
	return nil, &refusal{"used ticket", fmt.Sprintf("its ticket was used already, from %s: it was opened by that and lost its power before it had another one, or somebody else has its disk (`redoubt events`)", rec.GetAddress())}
}

// noteRefusal is the record with a refusal, or nil where it was told of already.
func noteRefusal(rec *autolockpb.Release, id string, why *refusal, from string, now time.Time) *autolockpb.Release {
	if rec.GetRefused() == from && rec.GetReason() == why.reason && now.Sub(time.Unix(0, rec.GetRefusedAt())) < tellAgain {
		return nil
	}
	next := &autolockpb.Release{Id: id}
	if rec != nil {
		next = proto.CloneOf(rec)
	}
	next.Refused, next.Reason, next.RefusedAt = from, why.reason, now.UnixNano()
	return next
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
