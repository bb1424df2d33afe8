package dockerapi

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

var update = flag.Bool("update", false, "write the wire forms anew")

// TestWireForms: what clients of these versions read stays as it is, whatever becomes of
// the types' module.
func TestWireForms(t *testing.T) {
	meta := &raftstorepb.Meta{Version: 42, CreatedAt: 1700000000123456789, UpdatedAt: 1700000001000000000}
	svc := &schedulerpb.Service{Meta: meta, Id: "svc", Spec: wholeSpec(), Revision: 3,
		UpdateStatus: &schedulerpb.UpdateStatus{State: schedulerpb.UpdateStatus_STATE_PAUSED, StartedAt: 1700000000000000000, Message: "update paused"}}
	view := &controlpb.ServiceView{Service: svc, Running: 2, Wanted: 3, Networks: []*controlpb.NetworkAddress{{NetworkId: "n1", Addresses: []string{"10.0.0.2"}}}}
	named := func(id string) string { return "name-of-" + id }
	w := &taskWords{services: map[string]serviceWords{"svc": {view, toTaskSpec(svc.GetSpec().GetTask(), named)}}}
	w.subnets = toSubnets([]*controlpb.NetworkDetail{{Network: &meshpb.Network{Id: "n1", Subnets: []*meshpb.Subnet{{Subnet: "10.0.0.0/24"}}}}})
	task := &controlpb.TaskView{ServiceName: "web", NodeName: "worker-1", Image: "app:1", Ports: []*taskpb.Port{{Published: 53, Target: 53, Protocol: taskpb.Port_PROTOCOL_UDP, Mode: taskpb.Port_MODE_HOST}, {Published: 80, Target: 8080, Mode: taskpb.Port_MODE_INGRESS}},
		Networks: []*controlpb.NetworkAddress{{NetworkId: "n1", NetworkName: "back", Addresses: []string{"10.0.0.7"}}},
		Task: &schedulerpb.Task{Meta: meta, Id: "task", ServiceId: "svc", Slot: 2, Revision: 2, NodeId: "node", Desired: schedulerpb.TaskState_TASK_STATE_SHUTDOWN,
			Status: &schedulerpb.TaskStatus{State: schedulerpb.TaskState_TASK_STATE_FAILED, At: 1700000002000000000, Error: "exit 3", Message: "failed", ExitCode: 3, ContainerId: "task"}}}
	node := &controlpb.NodeView{Id: "node", Name: "manager-1", Role: profilepb.Role_ROLE_MANAGER, Effective: schedulerpb.Availability_AVAILABILITY_DRAIN,
		Manager: &controlpb.ManagerStatus{Leader: true, Address: "192.0.2.1:2377", Reachable: true},
		Node: &schedulerpb.Node{Meta: meta, Id: "node", Labels: map[string]string{"disk": "ssd"}, State: schedulerpb.NodeState_NODE_STATE_READY, Address: "192.0.2.1",
			Description: &schedulerpb.NodeDescription{Hostname: "m", Os: "linux", Arch: "amd64", RedoubtVersion: "1.0", Resources: &taskpb.Resources{NanoCpus: 2e9, MemoryBytes: 1 << 30}}}}
	net := &controlpb.NetworkDetail{Network: &meshpb.Network{Meta: meta, Id: "n1", Kind: meshpb.Kind_KIND_OVERLAY, Spec: &meshpb.NetworkSpec{Name: "back", Labels: map[string]string{"a": "b"}, Internal: true},
		Subnets: []*meshpb.Subnet{{Subnet: "10.0.0.0/24", Gateway: "10.0.0.1"}}}}
	secret := &secretspb.Secret{Meta: meta, Id: "s1", Spec: &secretspb.SecretSpec{Name: "pw"}}
	event := &controlpb.Event{At: 1700000000123456789, Type: "service", Action: "update", Id: "svc", Name: "web", Attributes: map[string]string{"replicas": "1 → 2"}}
	for name, v := range map[string]any{
		"service": toServiceView(view, named, true), "task": w.task(task), "node": toNode(node), "network": networkInspect{networkView: toNetwork(net), Containers: map[string]any{}},
		"secret": toSecret(secret), "event": toEvent(event),
	} {
		got, err := json.MarshalIndent(v, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, '\n')
		path := filepath.Join("testdata", name+".json")
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(path); err != nil || string(got) != string(want) {
			t.Errorf("%s is not what %s says (%v): with -update, and look at the difference:\n%s", name, path, err, got)
		}
	}
}
