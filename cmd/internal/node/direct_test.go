package node

import (
	"context"
	"runtime"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

// Streams end with the connection to the leader, so none may be answered in
// place; and every other method can be.
func TestDirectIsForUnaryMethods(t *testing.T) {
	for _, s := range controlpb.Control_ServiceDesc.Streams {
		if unaryMethods["/"+controlpb.Control_ServiceDesc.ServiceName+"/"+s.StreamName] != nil {
			t.Errorf("%s is a stream", s.StreamName)
		}
	}
	for _, m := range controlpb.Control_ServiceDesc.Methods {
		if d := unaryMethods["/"+controlpb.Control_ServiceDesc.ServiceName+"/"+m.MethodName]; d == nil || d.MethodName != m.MethodName {
			t.Errorf("%s is not found", m.MethodName)
		}
	}
}

// A leader's own root is told, as everybody is, which manager to upgrade by its
// name.
func TestDirectNamesWhomToUpgrade(t *testing.T) {
	w := newCallerWorld(t)
	for w.m.direct.Load() == nil { // its servers start
		runtime.Gosched()
	}
	d := *w.m.direct.Load()
	d.api = outdated{d.api.(*control.Server), w.m.creds.Peer().NodeID}
	w.m.direct.Store(&d)
	c, err := apiclient.Dial(t.Context(), w.local)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var name string
	if err := w.m.store.View(func(r *raftstore.ReadTx) error {
		n, _ := pkistore.Nodes.Get(r, w.m.creds.Peer().NodeID)
		name = n.GetName()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	_, err = c.CreateConfig(t.Context(), &controlpb.CreateConfigRequest{Spec: &secretspb.ConfigSpec{Name: "x"}})
	if err == nil || name == "" || !strings.Contains(err.Error(), "upgrade manager "+name+" first") {
		t.Errorf("the manager %s is to be upgraded, and root is told: %v", name, err)
	}
}

// outdated has a manager that understands less than is asked for.
type outdated struct {
	*control.Server
	behind string
}

func (o outdated) CreateConfig(context.Context, *controlpb.CreateConfigRequest) (*controlpb.CreateConfigResponse, error) {
	return nil, &raftstore.LevelError{What: "configs", Need: 2, Have: 1, Behind: []string{o.behind}}
}
