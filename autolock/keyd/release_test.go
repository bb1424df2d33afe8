package keyd

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
)

func ticketOf(t *testing.T, k *instance) []byte {
	t.Helper()
	st, err := k.Status(t.Context())
	if err != nil || len(st.Ticket) == 0 {
		t.Fatal("no ticket:", st, err)
	}
	return st.Ticket
}

// withRelease is a cluster of two managers that release each other.
func withRelease(t *testing.T) (c, other *cluster, sign func(*cluster) *keydpb.SessionStatement, set *keydpb.SlotSet) {
	t.Helper()
	c = newCluster(t)
	set = &keydpb.SlotSet{Epoch: 2, Slots: append(slices.Clone(c.init.Slots.Slots),
		&keydpb.Slot{Id: ident.New(), Name: "release", Kind: keydpb.SlotKind_SLOT_KIND_RELEASE})}
	if _, err := c.Reseal(t.Context(), &keydpb.ResealRequest{Slots: set}); err != nil {
		t.Fatal(err)
	}
	other, key, boot := secondManager(t, c, set)
	return c, other, func(at *cluster) *keydpb.SessionStatement { return statement(t, at, boot, key) }, set
}

func TestRelease(t *testing.T) {
	c, other, sign, _ := withRelease(t)
	first := ticketOf(t, other.instance)
	other.restart(t)
	ticket := ticketOf(t, other.instance)
	if !bytes.Equal(ticket, first) {
		t.Error("a locked keyd has another ticket")
	}
	to := sign(other)
	r, err := c.Release(t.Context(), &keydpb.ReleaseRequest{To: to, Ticket: ticket})
	if err != nil {
		t.Fatal(err)
	}
	if parsed, _ := readTicket(ticket); r.NodeId != other.nodeID || r.Generation != parsed.Generation || r.SlotId != parsed.SlotId {
		t.Error(r)
	}
	damaged := bytes.Clone(r.Sealed)
	damaged[len(damaged)-1] ^= 1
	wantCode(t, other.TakeRelease(t.Context(), damaged), keydpb.Code_CODE_STALE_EPOCH)
	wantCode(t, other.TakeRelease(t.Context(), nil), keydpb.Code_CODE_STALE_EPOCH)
	if err := other.TakeRelease(t.Context(), r.Sealed); err != nil {
		t.Fatal(err)
	}
	if err := other.TakeRelease(t.Context(), r.Sealed); err != nil {
		t.Error("once more, while it is open:", err)
	}
	next, _ := readTicket(ticketOf(t, other.instance))
	if next.Generation <= r.Generation {
		t.Errorf("generation %d after %d", next.Generation, r.Generation)
	}

	// Of two reboots each has its own, and what opened the first opens the second no more.
	other.restart(t)
	again := sign(other)
	wantCode(t, other.TakeRelease(t.Context(), r.Sealed), keydpb.Code_CODE_STALE_EPOCH)
	old, err := c.Release(t.Context(), &keydpb.ReleaseRequest{To: again, Ticket: ticket})
	if err != nil { // that it was used is redoubtd's to know
		t.Fatal(err)
	}
	wantCode(t, other.TakeRelease(t.Context(), old.Sealed), keydpb.Code_CODE_WRONG_KEY)
	r, err = c.Release(t.Context(), &keydpb.ReleaseRequest{To: again, Ticket: ticketOf(t, other.instance)})
	if err == nil {
		err = other.TakeRelease(t.Context(), r.Sealed)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestReleaseRefuses(t *testing.T) {
	c, other, sign, set := withRelease(t)
	mine := ticketOf(t, c.instance)
	other.restart(t)
	ticket, to := ticketOf(t, other.instance), sign(other)
	change := func(f func(*keydpb.Ticket)) []byte {
		tk, err := readTicket(ticket)
		if err != nil {
			t.Fatal(err)
		}
		f(tk)
		raw, _ := proto.Marshal(tk)
		return raw
	}
	for name, req := range map[string]*keydpb.ReleaseRequest{
		"no ticket":               {To: to},
		"a long ticket":           {To: to, Ticket: make([]byte, maxTicket+1)},
		"cut":                     {To: to, Ticket: ticket[:len(ticket)-1]},
		"more behind it":          {To: to, Ticket: append(bytes.Clone(ticket), 0x78, 1)},
		"another generation":      {To: to, Ticket: change(func(k *keydpb.Ticket) { k.Generation++ })},
		"another slot":            {To: to, Ticket: change(func(k *keydpb.Ticket) { k.SlotId = ident.New() })},
		"another key epoch":       {To: to, Ticket: change(func(k *keydpb.Ticket) { k.Sealed[6] ^= 1 })},
		"damaged":                 {To: to, Ticket: change(func(k *keydpb.Ticket) { k.Sealed[len(k.Sealed)-1] ^= 1 })},
		"another manager's":       {To: to, Ticket: mine},
		"no session":              {Ticket: ticket},
		"another cluster's":       {To: foreignStatement(t), Ticket: ticket},
		"a session of nobody's":   {To: &keydpb.SessionStatement{SessionKey: foreignStatement(t).SessionKey, Boot: to.Boot, Signature: to.Signature}, Ticket: ticket},
		"a session without a key": {To: &keydpb.SessionStatement{Boot: to.Boot, Signature: to.Signature}, Ticket: ticket},
	} {
		if r, err := c.Release(t.Context(), req); err == nil {
			t.Errorf("%s: %v", name, r)
		}
	}
	_, err := other.Release(t.Context(), &keydpb.ReleaseRequest{To: to, Ticket: ticket})
	wantCode(t, err, keydpb.Code_CODE_LOCKED)

	// What opens nothing spends nothing, and is not in the journal.
	damaged := change(func(k *keydpb.Ticket) { k.Sealed[len(k.Sealed)-1] ^= 1 })
	for range releaseRate.burst + 1 {
		_, err := c.Release(t.Context(), &keydpb.ReleaseRequest{To: to, Ticket: damaged})
		wantCode(t, err, keydpb.Code_CODE_DENIED)
	}
	if _, err := c.Release(t.Context(), &keydpb.ReleaseRequest{To: to, Ticket: ticket}); err != nil {
		t.Error("after tickets that open nothing:", err)
	}
	journal, err := os.ReadFile(filepath.Join(c.dir, "journal"))
	if n := bytes.Count(journal, []byte(`"ticket `)); err != nil || n != 1 {
		t.Errorf("%d releases in the journal, %v", n, err)
	}

	// The slot is taken away: who was away has its ticket, and it opens nothing.
	without := &keydpb.SlotSet{Epoch: 3, Slots: set.Slots[:1]}
	if _, err := c.Reseal(t.Context(), &keydpb.ResealRequest{Slots: without}); err != nil {
		t.Fatal(err)
	}
	_, err = c.Release(t.Context(), &keydpb.ReleaseRequest{To: to, Ticket: ticket})
	wantCode(t, err, keydpb.Code_CODE_DENIED)
	if st, err := c.Status(t.Context()); err != nil || len(st.Ticket) > 0 {
		t.Error("a ticket is left:", st, err)
	}
}

// Nothing that is on the disk of a manager opens it: no file has the seed, and no
// ticket of one that is locked is opened by itself.
func TestNothingOnTheDiskReleases(t *testing.T) {
	c, other, sign, _ := withRelease(t)
	other.restart(t)
	to := sign(other)
	r, err := c.server.release(&keydpb.ReleaseRequest{To: to, Ticket: ticketOf(t, other.instance)})
	if err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(other.dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		b, _ := os.ReadFile(path)
		if bytes.Contains(b, r.Sealed[len(r.Sealed)-32:]) || filepath.Base(path) != "state" && filepath.Base(path) != "journal" {
			t.Errorf("%s is there", path)
		}
	}
}
