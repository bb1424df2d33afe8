package control_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// sink is the caller's end of a stream.
type sink[T any] struct {
	grpc.ServerStream
	ctx   context.Context
	pages []*T
}

func (s *sink[T]) Context() context.Context { return s.ctx }
func (s *sink[T]) Send(p *T) error          { s.pages = append(s.pages, p); return nil }

func TestStreamedListings(t *testing.T) {
	const services, tasks = 1300, 1100
	w := newWorld(t)
	sp := schedulertest.Spec("x", 0)
	sp.Labels = map[string]string{"big": strings.Repeat("v", 1024)}
	// In parts: a transaction is bounded.
	for part := range 13 {
		schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
			for i := range services / 13 {
				n := part*services/13 + i
				own := proto.CloneOf(sp)
				own.Name = fmt.Sprintf("svc-%04d", n)
				if err := schedstore.Services.Put(tx, &schedulerpb.Service{Id: fmt.Sprintf("id%024d", n), Spec: own, Revision: 1}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		for slot := range tasks {
			err := schedstore.Tasks.Put(tx, &schedulerpb.Task{Id: fmt.Sprintf("tk%024d", tasks-slot), ServiceId: fmt.Sprintf("id%024d", 7), Slot: uint32(slot + 1), Revision: 1})
			if err != nil {
				return err
			}
		}
		return nil
	})

	got := &sink[controlpb.ListServicesResponse]{ctx: t.Context()}
	if err := w.api.StreamServices(&controlpb.ListServicesRequest{}, got); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range got.pages {
		if size := proto.Size(p); size > 300<<10 {
			t.Errorf("a page of %d bytes", size)
		}
		for _, v := range p.GetServices() {
			if want := fmt.Sprintf("svc-%04d", n); v.GetService().GetSpec().GetName() != want {
				t.Fatalf("number %d is %s, not %s", n, v.GetService().GetSpec().GetName(), want)
			}
			n++
		}
	}
	if n != services || len(got.pages) < 5 {
		t.Errorf("%d services in %d pages", n, len(got.pages))
	}
	// In one answer there are too many of them, and the refusal says so.
	_, err := w.api.ListServices(t.Context(), &controlpb.ListServicesRequest{})
	wantReason(t, err, apierr.ReasonInvalid, "more than 1000")

	listed := &sink[controlpb.ListTasksResponse]{ctx: t.Context()}
	if err := w.api.StreamTasks(&controlpb.ListTasksRequest{Services: []string{"svc-0007"}}, listed); err != nil {
		t.Fatal(err)
	}
	slot := uint32(0)
	for _, p := range listed.pages {
		for _, v := range p.GetTasks() {
			if slot++; v.GetTask().GetSlot() != slot {
				t.Fatalf("slot %d stands where %d should", v.GetTask().GetSlot(), slot)
			}
		}
	}
	if slot != tasks || len(listed.pages) != 3 {
		t.Errorf("%d tasks in %d pages", slot, len(listed.pages))
	}
}

// Also a listing of nothing is answered, with what a page says besides.
func TestStreamedListingOfNothing(t *testing.T) {
	w := newWorld(t)
	got := &sink[controlpb.ListTasksResponse]{ctx: t.Context()}
	if err := w.api.StreamTasks(&controlpb.ListTasksRequest{}, got); err != nil || len(got.pages) != 1 {
		t.Errorf("%d pages, %v", len(got.pages), err)
	}
	nodes := &sink[controlpb.ListNodesResponse]{ctx: t.Context()}
	err := w.api.StreamNodes(&controlpb.ListNodesRequest{Nodes: []string{"nobody"}}, nodes)
	wantReason(t, err, apierr.ReasonNotFound, "nobody")
	if len(nodes.pages) != 0 {
		t.Error("a page was sent before the refusal")
	}
}
