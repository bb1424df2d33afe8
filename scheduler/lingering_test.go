package scheduler_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// A service whose name leads to its virtual address no more keeps that for a while, and
// nobody else is given it; who leads then gives it back.
func TestVirtualAddressesStayForAWhile(t *testing.T) {
	t.Parallel()
	s := schedulertest.NewStore(t)
	network(t, s, "back", "10.9.0.0/28")
	sp := schedulertest.Spec("web", 0)
	sp.Task.Networks = []*taskpb.NetworkUse{{Network: "back"}}
	web := create(t, s, sp)
	now := func() (svc *schedulerpb.Service) {
		_ = s.View(func(r *raftstore.ReadTx) error { svc, _ = store.Services.Get(r, web); return nil })
		return svc
	}
	vip := now().GetVips()[0].GetAddresses()[0]
	mode := func(m schedulerpb.EndpointMode) {
		t.Helper()
		update(t, s, web, func(sp *schedulerpb.ServiceSpec) { sp.EndpointMode = m })
	}
	const vips, dnsrr = schedulerpb.EndpointMode_ENDPOINT_MODE_VIP, schedulerpb.EndpointMode_ENDPOINT_MODE_DNSRR
	has := func(when string, stays bool) {
		t.Helper()
		svc := now()
		if len(svc.GetVips()) != 1 || !slices.Equal(svc.GetVips()[0].GetAddresses(), []string{vip}) || (svc.GetVipsUntil() == 0) != stays {
			t.Errorf("%s it has %v until %d", when, svc.GetVips(), svc.GetVipsUntil())
		}
	}
	mode(dnsrr)
	has("in mode dnsrr", false)
	mode(vips)
	has("back in mode vip", true)
	mode(dnsrr)
	changed, until := time.Now(), now().GetVipsUntil()
	update(t, s, web, func(sp *schedulerpb.ServiceSpec) { sp.Labels = map[string]string{"a": "b"} })
	if has("after another change", false); now().GetVipsUntil() != until {
		t.Error("another change lets it stay longer")
	}
	// All others there are; none is web's.
	for i := range 16 {
		sp.Name = fmt.Sprintf("other-%d", i)
		if _, err := store.CreateService(t.Context(), s, sp); err != nil {
			break
		}
	}
	others := 0
	_ = s.View(func(r *raftstore.ReadTx) error {
		for svc := range store.Services.All(r) {
			if svc.GetId() == web {
				continue
			}
			if others++; svc.GetVips()[0].GetAddresses()[0] == vip {
				t.Errorf("%s was given web's address", svc.GetSpec().GetName())
			}
		}
		return nil
	})
	if others == 0 || others > 3 {
		t.Errorf("%d others have a virtual address", others)
	}
	schedulertest.Run(t, s) // by a leader that saw none of it
	schedulertest.Await(t, s, func(r raftstore.Reader) error {
		if svc, _ := store.Services.Get(r, web); len(svc.GetVips()) > 0 || svc.GetVipsUntil() != 0 {
			return errors.New("it keeps its virtual address")
		}
		return nil
	})
	if stayed := time.Since(changed); stayed < 4*time.Second {
		t.Errorf("it was given back after %v", stayed)
	}
	sp.Name = "next"
	create(t, s, sp) // which is given it now
}
