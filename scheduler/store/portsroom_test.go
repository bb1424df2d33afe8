package store_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Managers may listen elsewhere than on 2377.
func TestAManagersPortIsNotPublished(t *testing.T) {
	s := schedulertest.NewCluster(t)
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
		return pkistore.Nodes.Put(tx, &pkipb.Node{Id: ident.New(), Name: "m1", Role: profilepb.Role_ROLE_MANAGER, Address: "192.0.2.1:443"})
	})
	_, err := store.CreateService(t.Context(), s, publishing("web", port(443, 443, taskpb.Port_MODE_INGRESS)))
	if err == nil || err.Error() != "port 443/tcp is what manager m1 listens on: publish another" {
		t.Error(err)
	}
	// Nor does one come to be where a service is.
	if _, err := store.CreateService(t.Context(), s, publishing("api", port(8443, 443, taskpb.Port_MODE_INGRESS), port(8444, 444, taskpb.Port_MODE_HOST))); err != nil {
		t.Fatal(err)
	}
	for address, refused := range map[string]string{
		"192.0.2.2:8443": "port 8443/tcp is published by service api: advertise this manager at another, or remove the port there",
		"192.0.2.2:8444": "", "192.0.2.2:2377": "", "": "",
	} {
		var err error
		schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
			err = store.CheckManager(tx, &pkipb.Node{Id: ident.New(), Role: profilepb.Role_ROLE_MANAGER, Address: address})
			return nil
		})
		if (err != nil) != (refused != "") || err != nil && err.Error() != refused {
			t.Errorf("a manager at %q: %v", address, err)
		}
	}
	udp := port(443, 443, taskpb.Port_MODE_INGRESS)
	udp.Protocol = taskpb.Port_PROTOCOL_UDP
	if _, err := store.CreateService(t.Context(), s, publishing("web", udp, port(444, 443, taskpb.Port_MODE_INGRESS))); err != nil {
		t.Error(err)
	}
	checkPorts(t, s)
}

// What nodes cannot take all of is not stored.
func TestPublishedPortsAreBounded(t *testing.T) {
	s := schedulertest.NewCluster(t)
	const ingress = taskpb.Port_MODE_INGRESS
	big := publishing("big", port(80, 80, ingress))
	big.GetReplicated().Replicas = spec.MaxIngressReplicas + 1
	if _, err := store.CreateService(t.Context(), s, big); err == nil || !strings.Contains(err.Error(), "16384 at most") {
		t.Error(err)
	}
	big.GetReplicated().Replicas--
	bigID, err := store.CreateService(t.Context(), s, big)
	if err != nil {
		t.Fatal(err)
	}
	// One number, on as many addresses.
	many := func(n int) *schedulerpb.ServiceSpec {
		sp := publishing(fmt.Sprintf("s%d", n))
		for i := range spec.MaxIngressPorts {
			p := port(443, 443, ingress)
			p.HostIp = fmt.Sprintf("10.0.%d.%d", n, i+1)
			sp.Task.Ports = append(sp.Task.Ports, p)
		}
		return sp
	}
	if err := change(t, s, bigID); err != nil { // it publishes nothing any more
		t.Fatal(err)
	}
	n := 0
	for ; err == nil && n < 64; n++ {
		_, err = store.CreateService(t.Context(), s, many(n))
	}
	if err == nil {
		_, err = store.CreateService(t.Context(), s, publishing("one", port(80, 80, ingress)))
	}
	if err == nil || err.Error() != "that would be 4097 published ports, and nodes answer on 4096: remove some" || n != 64 {
		t.Errorf("after %d services: %v", n, err)
	}
	if _, err := store.CreateService(t.Context(), s, publishing("host", port(9000, 80, taskpb.Port_MODE_HOST))); err != nil {
		t.Error(err)
	}
}
