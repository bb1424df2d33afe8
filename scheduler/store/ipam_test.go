package store_test

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/ipam"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

var errCrash = errors.New("the leader is lost")

// addTask places a task of a service as the leader does.
func addTask(tx *raftstore.Tx, service string, uses []*taskpb.NetworkUse) (*schedulerpb.Task, error) {
	t := &schedulerpb.Task{Id: ident.New(), ServiceId: service, Slot: 1, Revision: 1, NodeId: "n", Desired: store.Running,
		Status: &schedulerpb.TaskStatus{State: store.Assigned}}
	if err := store.Attach(tx, t, uses, false); err != nil {
		return nil, err
	}
	return t, store.PutTask(tx, t)
}

// TestAddressesAreNeitherLostNorGivenTwice makes and removes networks, services
// and tasks at random, some in transactions that are lost, and compares what is
// held with what is there: every address is its holder's alone and of the right
// part of the subnet, a full network says so, and is empty again at the end.
func TestAddressesAreNeitherLostNorGivenTwice(t *testing.T) {
	s := schedulertest.NewStore(t)
	steps, full := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		var networks, tasks []string
		services := map[string]string{} // service to network
		lost := func() bool { return rapid.IntRange(0, 9).Draw(rt, "lost") == 0 }
		update := func(fn func(tx *raftstore.Tx) error) error {
			crash := lost()
			err := meshstore.Retry(t.Context(), s, func(tx *raftstore.Tx) error {
				if err := fn(tx); err != nil || !crash {
					return err
				}
				return errCrash
			})
			if err != nil && !errors.Is(err, errCrash) && !errors.As(err, new(*meshstore.ExhaustedError)) && !errors.As(err, new(*store.RefusedError)) {
				rt.Fatal(err)
			}
			return err
		}
		for range 100 {
			steps++
			switch what := rapid.IntRange(0, 9).Draw(rt, "what"); {
			case what == 0 && len(networks) < 4:
				sp := &meshpb.NetworkSpec{Name: "n" + ident.New()[:20], Driver: "overlay", Ipv6: rapid.Bool().Draw(rt, "six")}
				if rapid.Bool().Draw(rt, "small") {
					p := fmt.Sprintf("10.9.0.%d/29", 8*rapid.IntRange(0, 3).Draw(rt, "subnet"))
					sp.Subnets = []*meshpb.Subnet{{Subnet: p, Gateway: netip.MustParsePrefix(p).Addr().Next().String()}}
				}
				id, err := meshstore.CreateNetwork(t.Context(), s, "c", sp)
				if err == nil {
					networks = append(networks, id)
				} else if !errors.As(err, new(*meshstore.RefusedError)) {
					rt.Fatal(err)
				}
			case what == 1 && len(networks) > 0:
				i := rapid.IntRange(0, len(networks)-1).Draw(rt, "network")
				if _, err := store.RemoveNetwork(t.Context(), s, networks[i]); err == nil {
					networks = slices.Delete(networks, i, i+1)
				}
			case what == 2 && len(networks) > 0:
				sp := schedulertest.Spec("s"+ident.New()[:20], 1)
				network := rapid.SampledFrom(networks).Draw(rt, "of")
				sp.Task.Networks = []*taskpb.NetworkUse{{Network: network}}
				sp.EndpointMode = schedulerpb.EndpointMode_ENDPOINT_MODE_VIP
				id := ident.New()
				if err := update(func(tx *raftstore.Tx) error { return store.PutNew(tx, id, sp) }); err == nil {
					services[id] = network
				}
			case what == 3 && len(services) > 0:
				id := anyKey(rt, services)
				if err := store.RemoveService(t.Context(), s, id); err != nil {
					rt.Fatal(err)
				}
				delete(services, id)
			case what < 8 && len(services) > 0:
				id := anyKey(rt, services)
				var task *schedulerpb.Task
				err := update(func(tx *raftstore.Tx) (err error) {
					task, err = addTask(tx, id, []*taskpb.NetworkUse{{Network: services[id]}})
					return err
				})
				if err == nil {
					tasks = append(tasks, task.Id)
				} else if errors.As(err, new(*meshstore.ExhaustedError)) {
					full++
				}
			case len(tasks) > 0:
				i := rapid.IntRange(0, len(tasks)-1).Draw(rt, "task")
				ends := rapid.Bool().Draw(rt, "ends") // or is forgotten
				if err := update(func(tx *raftstore.Tx) error {
					if ends {
						return store.AdvanceTask(tx, "n", tasks[i], &schedulerpb.TaskStatus{State: store.Failed})
					}
					return store.Tasks.Delete(tx, tasks[i])
				}); err == nil {
					tasks = slices.Delete(tasks, i, i+1)
				}
			}
			checkAddresses(rt, s, tasks, services)
		}
		for id := range services {
			if err := store.RemoveService(t.Context(), s, id); err != nil {
				rt.Fatal(err)
			}
		}
		schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
			for task := range store.Tasks.All(tx) {
				if err := store.Tasks.Delete(tx, task.Id); err != nil {
					return err
				}
			}
			return nil
		})
		for _, id := range networks {
			if _, err := store.RemoveNetwork(t.Context(), s, id); err != nil {
				rt.Fatalf("a network that nothing is on any more: %v", err)
			}
		}
	})
	t.Logf("%d steps, %d times a network was full", steps, full)
	if full == 0 {
		t.Error("no network was ever full: the test shows nothing of that")
	}
}

func anyKey(rt *rapid.T, m map[string]string) string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return rapid.SampledFrom(keys).Draw(rt, "service")
}

// checkAddresses holds what the indexes have against the objects.
func checkAddresses(rt *rapid.T, s *raftstore.Store, tasks []string, services map[string]string) {
	if err := s.View(func(r *raftstore.ReadTx) error {
		held := map[string]string{}
		hold := func(id string, as []*taskpb.Attachment, of func(*meshpb.Subnet) (ipam.Range, error)) {
			for _, a := range as {
				n, ok := meshstore.Networks.Get(r, a.NetworkId)
				if !ok || len(a.Addresses) != len(n.Subnets) {
					rt.Fatalf("%s is on %v, of which there is %v", id, a, n)
				}
				for i, text := range a.Addresses {
					if other := held[text]; other != "" {
						rt.Fatalf("%s is of %s and of %s", text, other, id)
					}
					held[text] = id
					if p := netip.MustParsePrefix(n.Subnets[i].Subnet); !p.Contains(netip.MustParseAddr(text)) {
						rt.Fatalf("%s is not of %s", text, p)
					}
				}
			}
		}
		for _, id := range tasks {
			task, ok := store.Tasks.Get(r, id)
			if !ok || len(task.Attachments) == 0 {
				rt.Fatalf("task %s has no address", id)
			}
			hold(id, task.Attachments, ipam.Endpoints)
		}
		for id := range services {
			svc, _ := store.Services.Get(r, id)
			if len(svc.GetVips()) != 1 {
				rt.Fatalf("service %s has %v", id, svc.GetVips())
			}
			hold(id, svc.GetVips(), ipam.VIPs)
		}
		inIndex := 0
		for range store.Tasks.ByPrefix(r, "address", "0a") { // every network has IPv4 of 10/8
			inIndex++
		}
		if inIndex != len(tasks) {
			rt.Fatalf("%d addresses are held by %d tasks", inIndex, len(tasks))
		}
		return nil
	}); err != nil {
		rt.Fatal(err)
	}
}

// TestNearlyFull: of a network with but a few addresses left the last is found,
// and the next refused. With IPAM_BITS=16 it measures what that costs.
func TestNearlyFull(t *testing.T) {
	s := schedulertest.NewStore(t)
	bits, err := strconv.Atoi(cmp.Or(os.Getenv("IPAM_BITS"), "22"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := meshstore.CreateNetwork(t.Context(), s, "c", &meshpb.NetworkSpec{Name: "big", Driver: "overlay",
		Subnets: []*meshpb.Subnet{{Subnet: fmt.Sprintf("10.9.0.0/%d", bits), Gateway: "10.9.0.1"}}})
	if err != nil {
		t.Fatal(err)
	}
	uses := []*taskpb.NetworkUse{{Network: id}}
	room := 1<<(32-bits)/4*3 - 2
	add := func(n int) error {
		return s.Update(t.Context(), func(tx *raftstore.Tx) error {
			for range n {
				if _, err := addTask(tx, "svc", uses); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for have := 0; have < room; {
		n := min(1000, room-have)
		if have == room-n && n > 10 {
			n -= 10
		}
		began := time.Now()
		if n <= 10 {
			n = 1
		}
		if err := add(n); err != nil {
			t.Fatal(err)
		}
		if have += n; n == 1 || have == 1000 {
			t.Logf("%d more, %d free: %v each", n, room-have, time.Since(began)/time.Duration(n))
		}
	}
	began := time.Now()
	err = add(1)
	if !errors.As(err, new(*meshstore.ExhaustedError)) {
		t.Fatalf("one too many: %v", err)
	}
	t.Logf("refused in %v: %v", time.Since(began), err)
}
