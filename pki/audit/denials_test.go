package audit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/pki/authz"
)

func from(host string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(host), Port: 40000} }

// TestDenials: the first refusal of a caller is told at once, further ones and
// those of callers that are not known are counted, and no flood gets further than
// the bounds.
func TestDenials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards the rest
		var sent []*auditpb.Record
		lost := 0
		fail := false
		d := NewDenials(&Log{Manager: "m1"}, func(_ context.Context, r []*auditpb.Record) error {
			mu.Lock()
			defer mu.Unlock()
			if fail {
				return errors.New("no leader")
			}
			sent = append(sent, r...)
			return nil
		}, func(n int, _ error) {
			mu.Lock()
			defer mu.Unlock()
			lost += n
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		take := func() (out string) {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			for _, r := range sent {
				out += fmt.Sprintf("%s %s %s ×%d: %s; ", r.GetCaller().GetName(), r.GetMethod(), r.GetCaller().GetAddress(), r.GetTimes(), r.GetReason())
			}
			sent = nil
			return out
		}
		w1 := authz.Identity{NodeID: "w1", Source: from("10.0.0.1")}
		d.Refused(authz.Identity{Person: "ann", Source: from("10.0.0.9")}, "/a.B/C", "ann may not")
		if got := take(); got != "person ann a.B/C 10.0.0.9:40000 ×1: ann may not; " {
			t.Errorf("the first refusal of a person: %q", got)
		}
		d.Refused(w1, "/a.B/C", "it is for others")
		if got := take(); !strings.Contains(got, " w1 a.B/C 10.0.0.1:40000 ×1: it is for others; ") {
			t.Errorf("the first refusal: %q", got)
		}
		for range 1000 {
			d.Refused(w1, "/a.B/C", "it is for others")
			d.Refused(authz.Identity{Source: from("10.0.0.9")}, "/a.B/C", "a certificate is needed here")
		}
		if got := take(); got != "" {
			t.Errorf("within the minute: %q", got)
		}
		time.Sleep(time.Minute)
		got := take()
		if !strings.Contains(got, " w1 a.B/C 10.0.0.1:40000 ×1000: ") || !strings.Contains(got, "callers that are not known  10.0.0.9 ×1000: ") || strings.Count(got, "×") != 2 {
			t.Errorf("after the minute: %q", got)
		}
		for i := range 5000 {
			d.Refused(authz.Identity{NodeID: fmt.Sprint("w", i), Source: from("10.0.0.1")}, "/a.B/C", "no")
		}
		synctest.Wait()
		mu.Lock()
		if len(sent) > maxDeniedAtOnce {
			t.Errorf("%d records at once", len(sent))
		}
		mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		mu.Lock()
		times := uint32(0)
		for _, r := range sent {
			times += r.GetTimes()
		}
		if len(sent) > maxDenied+maxDeniedNames+1+maxDeniedAtOnce || times != 5000 {
			t.Errorf("%d records of %d refusals", len(sent), times)
		}
		fail = true
		mu.Unlock()
		d.Refused(w1, "/a.B/C", "no")
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if lost != 1 {
			t.Errorf("%d were said to be lost", lost)
		}
		cancel()
		<-ended
	})
}

// sentAtEnd is what is told of refusals within one minute that ends with Run.
func sentAtEnd(t *testing.T, refuse func(*Denials)) (out []*auditpb.Record) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	d := NewDenials(&Log{Manager: "m1"}, func(ctx context.Context, r []*auditpb.Record) error {
		out = append(out, r...)
		return ctx.Err()
	}, func(n int, err error) { t.Errorf("%d records are lost: %v", n, err) })
	refuse(d)
	cancel()
	if err := d.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	return out
}

// TestStrangersTakeNoNames: however many sources there are of which nobody knows who
// calls, whoever is known is told by name; and who is refused more than is counted apart
// is, too.
func TestStrangersTakeNoNames(t *testing.T) {
	w1 := authz.Identity{NodeID: "w1", Source: from("10.0.0.1")}
	ann := authz.Identity{Person: "ann", Source: from("10.0.0.9")}
	var times, strangers, anns uint32
	sources := map[string]bool{}
	for _, r := range sentAtEnd(t, func(d *Denials) {
		for i := range 5000 {
			d.Refused(authz.Identity{Source: from(fmt.Sprintf("10.1.%d.%d", i/250, i%250))}, "/a.B/C", "a certificate is needed here")
			d.Refused(authz.Identity{Source: from(fmt.Sprintf("2001:db8::%x", i))}, "/a.B/C", "a certificate is needed here")
			d.Refused(w1, fmt.Sprint("/a.B/C", i), "it is for others")
		}
		d.Refused(ann, "/a.B/C", "ann may not")
	}) {
		times += r.GetTimes()
		switch c := r.GetCaller(); {
		case c.GetPerson() == "ann":
			anns++
		case c.GetNode() == "":
			strangers++
			sources[c.GetAddress()] = true
		}
	}
	if anns != 1 {
		t.Errorf("ann is told %d times", anns)
	}
	if strangers > maxDeniedSources+1 || !sources["2001:db8::/64"] || !sources["10.1.0.0"] || times != 3*5000+1 {
		t.Errorf("%d records of strangers, from %v; %d refusals of %d", strangers, sources, times, 3*5000+1)
	}
}

// TestCommit takes of what another manager tells what a refusal has, and bounds it.
func TestCommit(t *testing.T) {
	l, s := newLog(t)
	forged := &auditpb.Record{Outcome: auditpb.Outcome_OUTCOME_DONE, Method: strings.Repeat("x", 10000), Changes: []*auditpb.Change{{Table: "nodes", Id: "n"}},
		Caller: &auditpb.Caller{Name: strings.Repeat("y", 1<<20), Manager: "somebody else"}}
	if err := l.Commit(t.Context(), "m2", []*auditpb.Record{forged, {Times: 3, Caller: &auditpb.Caller{Name: "w1"}}, {}}); err != nil {
		t.Fatal(err)
	}
	got := recordsOf(t, s)
	if len(got) != 3 || got[0].GetOutcome() != auditpb.Outcome_OUTCOME_DENIED || len(got[0].GetChanges()) > 0 || got[0].GetCaller().GetManager() != "m2" ||
		proto.Size(got[0]) > maxDeniedBytes || got[1].GetTimes() != 3 || got[1].GetCaller().GetName() != "w1" {
		t.Errorf("records %v", got)
	}
}
