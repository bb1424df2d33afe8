package node

import (
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

type sessionStream = grpc.BidiStreamingClient[schedulerpb.AgentMessage, schedulerpb.ManagerMessage]

// session opens a session and waits for the manager's first word.
func (w *callerWorld) session(t *testing.T, n *pkitest.Node) sessionStream {
	t.Helper()
	cc, err := port.DialGRPC(t.Context(), n.Credentials, []string{w.addr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	s, err := schedulerpb.NewDispatcherClient(cc).Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hello := &schedulerpb.Hello{Description: &schedulerpb.NodeDescription{Hostname: "n", Os: "linux", Arch: "amd64"}}
	if err := s.Send(&schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Hello{Hello: hello}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	return s
}

// ended reports the end of a stream.
func endOf(s sessionStream) <-chan error {
	end := make(chan error, 1)
	go func() {
		for {
			if _, err := s.Recv(); err != nil {
				end <- err
				return
			}
		}
	}()
	return end
}

// TestStreamOutlivesRenewal: a session that began with a certificate goes on
// when that certificate was renewed, while a removal ends one at once and says
// why to whoever comes again.
func TestStreamOutlivesRenewal(t *testing.T) {
	w := newCallerWorld(t)
	renewed, removed := w.put(t, w.ca.NewNode(t, profilepb.Role_ROLE_WORKER)), w.put(t, w.ca.NewNode(t, profilepb.Role_ROLE_WORKER))
	stays, goes := w.session(t, renewed), endOf(w.session(t, removed))
	staysEnd := endOf(stays)

	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	id := renewed.Identity()
	chain, err := w.ca.Issue(profile.Identity{ClusterID: id.ClusterID, NodeID: id.NodeID, Role: id.Role}, key.Public(), time.Now(), profile.LeafLife)
	if err != nil {
		t.Fatal(err)
	}
	w.update(t, func(tx *raftstore.Tx) error { return pki.RecordLeaf(tx, id.NodeID, id.SPKI, pki.Issued{Leaf: chain}) })
	if err := renewed.SetLeaf(chain, key); err != nil {
		t.Fatal(err)
	}
	// Committed after the renewal, so once it took effect the renewal has, too.
	w.update(t, func(tx *raftstore.Tx) error { return pki.Deny(tx, removed.Record.GetId()) })
	start := time.Now()
	select {
	case <-goes:
		t.Logf("a removed node's session ended after %v", time.Since(start).Round(time.Millisecond))
	case <-time.After(20 * time.Second):
		t.Fatal("a removed node's session goes on")
	}
	select {
	case err := <-staysEnd:
		t.Fatalf("the session of a node that renewed its certificate ended: %v", err)
	default:
	}
	beat := &schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Heartbeat{Heartbeat: &schedulerpb.Heartbeat{}}}
	if err := stays.Send(beat); err != nil {
		t.Errorf("a heartbeat after the renewal: %v", err)
	}
	w.session(t, renewed) // and the new certificate is good
	cc, err := port.DialGRPC(t.Context(), removed.Credentials, []string{w.addr})
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	s, err := schedulerpb.NewDispatcherClient(cc).Session(t.Context())
	if err == nil {
		_, err = s.Recv()
	}
	if r := authz.RefusalOf(err); r.GetNodeId() != removed.Record.GetId() {
		t.Errorf("a removed node that comes again is told %v", err)
	}
}
