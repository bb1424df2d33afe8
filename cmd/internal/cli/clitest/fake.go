// Package clitest is a node for tests of the command line: the Bootstrap and
// Control services on api.sock and keyd's unlock socket beside it, with a
// scheduler that has every task running as soon as it is asked for.
//
// It is a fake of the answers, not of the rules: it refuses only what a test
// needs to see refused. Images called "broken" never run.
package clitest

import (
	"crypto/x509"
	"fmt"
	"net"
	"path/filepath"
	"sync"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/seal"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

// Node is the fake. Its fields may be set before Serve.
type Node struct {
	controlpb.UnimplementedBootstrapServer
	controlpb.UnimplementedControlServer
	controlpb.UnimplementedExecsServer
	controlpb.UnimplementedAuthorityServer
	controlpb.UnimplementedIdentitiesServer
	controlpb.UnimplementedSecretsServer
	controlpb.UnimplementedRevocationServer
	controlpb.UnimplementedAccessServer
	controlpb.UnimplementedWaiversServer
	controlpb.UnimplementedAuditServer
	controlpb.UnimplementedPeopleServer
	controlpb.UnimplementedComplianceServer
	controlpb.UnimplementedApprovalsServer
	controlpb.UnimplementedImagePolicyServer
	controlpb.UnimplementedAdmissionServer
	controlpb.UnimplementedPlacementServer
	controlpb.UnimplementedVolumesServer

	// Key opens it when it is locked.
	Key autolock.OperatorKey

	mu        sync.Mutex
	phase     controlpb.NodePhase
	role      profilepb.Role
	cluster   string
	id        string
	tokens    []*controlpb.TokenView
	services  []*schedulerpb.Service
	strategy  taskpb.Strategy
	former    map[string][]*schedulerpb.ServiceSpecRecord // of services, by id
	runs      map[string][]*schedulerpb.ServiceRun        // of jobs, by id
	configs   []*secretspb.Config
	secrets   []*keptSecret
	master    *seal.Master // of secrets
	networks  []*meshpb.Network
	volumes   []*schedulerpb.Volume
	rules     []*meshpb.Policy // of networks
	roles     []*controlpb.RoleView
	broken    []*controlpb.BreakGlassView
	witnesses []*controlpb.WitnessView
	bindings  []*controlpb.BindingView
	policies  []*controlpb.AccessPolicyView
	waivers   []*controlpb.WaiverView
	reports   []*controlpb.SignedReport // the oldest first
	schedule  *controlpb.SetComplianceScheduleRequest
	people    []*controlpb.PersonView
	waiting   []*controlpb.ApprovalView
	images    []byte // the image policy
	slots     *keydpb.SlotSet
	long      int   // segments of the audit log before its records
	keep      int64 // seconds that records are kept
	drops     []*controlpb.DropView
	away      bool // a manager is away
	dying     bool // a manager goes away when the key is rotated
	leader    bool
	rotating  bool // a root is being replaced
	noSlots   bool // the caller may not rotate slots
	forges    bool // answers say other requests than those that wait

	orderKey   []byte
	externalCA *pkipb.External // nil: none
}

// New returns a node in the given state: "empty", "active", "worker",
// "locked", "denied", "leaderless", "away" (active, another manager away), "dying"
// (active, another manager goes away while it rotates its key) or "operator" (active, and
// the caller may not rotate slots) or "forging" (active, and what it says of approvals is
// forged).
func New(state string) (*Node, error) {
	n := &Node{
		Key: autolock.NewOperatorKey(), phase: controlpb.NodePhase_NODE_PHASE_ACTIVE, role: profilepb.Role_ROLE_MANAGER,
		cluster: ident.New(), id: ident.New(), leader: true, keep: 90 * 86400,
	}
	var err error
	if n.master, err = seal.NewMaster(n.cluster, 1, make([]byte, 32)); err != nil {
		return nil, err
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	if n.orderKey, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		return nil, err
	}
	n.slots = &keydpb.SlotSet{Epoch: 1, Slots: []*keydpb.Slot{n.Key.Slot()}}
	switch state {
	case "active":
	case "operator":
		n.noSlots = true
	case "forging":
		n.forges = true
	case "empty":
		n.phase, n.role, n.cluster, n.id = controlpb.NodePhase_NODE_PHASE_EMPTY, 0, "", ""
	case "worker":
		n.role = profilepb.Role_ROLE_WORKER
	case "locked":
		n.phase = controlpb.NodePhase_NODE_PHASE_LOCKED
	case "broken":
		n.phase = controlpb.NodePhase_NODE_PHASE_BROKEN
	case "leaderless":
		n.leader = false
	case "long":
		n.long = 2
	case "away":
		n.away = true
	case "dying":
		n.dying = true
	default:
		return nil, fmt.Errorf("unknown state %q", state)
	}
	return n, nil
}

// Serve answers on dir/api.sock and dir/unlock.sock until stop is called.
func (n *Node) Serve(dir string) (stop func(), err error) {
	api, err := net.Listen("unix", filepath.Join(dir, "api.sock"))
	if err != nil {
		return nil, err
	}
	unlock, err := net.Listen("unix", filepath.Join(dir, "unlock.sock"))
	if err != nil {
		api.Close()
		return nil, err
	}
	s := grpc.NewServer()
	controlpb.RegisterBootstrapServer(s, n)
	controlpb.RegisterControlServer(s, n)
	controlpb.RegisterExecsServer(s, n)
	controlpb.RegisterAuditServer(s, n)
	controlpb.RegisterComplianceServer(s, n)
	controlpb.RegisterImagePolicyServer(s, n)
	controlpb.RegisterAdmissionServer(s, n)
	controlpb.RegisterPlacementServer(s, n)
	controlpb.RegisterVolumesServer(s, n)
	controlpb.RegisterAuthorityServer(s, n)
	controlpb.RegisterIdentitiesServer(s, n)
	controlpb.RegisterSecretsServer(s, n)
	controlpb.RegisterRevocationServer(s, n)
	controlpb.RegisterAccessServer(s, n)
	controlpb.RegisterPeopleServer(s, n)
	controlpb.RegisterWaiversServer(s, n)
	controlpb.RegisterApprovalsServer(s, n)
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(api) })
	wg.Go(func() { n.serveUnlock(unlock, &wg) })
	return func() {
		s.Stop()
		unlock.Close()
		wg.Wait()
	}, nil
}

func (n *Node) serveUnlock(l net.Listener, wg *sync.WaitGroup) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer conn.Close()
			for {
				req := new(keydpb.Request)
				if wire.Read(conn, req) != nil || wire.Write(conn, n.keyd(req)) != nil {
					return
				}
			}
		})
	}
}

func (n *Node) keyd(req *keydpb.Request) *keydpb.Response {
	n.mu.Lock()
	defer n.mu.Unlock()
	locked := n.phase == controlpb.NodePhase_NODE_PHASE_LOCKED
	refuse := func(c keydpb.Code) *keydpb.Response {
		return &keydpb.Response{Result: &keydpb.Response_Error{Error: &keydpb.Error{Code: c, Message: "refused"}}}
	}
	switch v := req.Verb.(type) {
	case *keydpb.Request_Status:
		state := keydpb.LockState_LOCK_STATE_UNLOCKED
		if locked {
			state = keydpb.LockState_LOCK_STATE_LOCKED
		}
		if n.role != profilepb.Role_ROLE_MANAGER {
			state = keydpb.LockState_LOCK_STATE_EMPTY
		}
		return &keydpb.Response{Result: &keydpb.Response_Status{Status: &keydpb.StatusResponse{State: state, ClusterId: n.cluster,
			SecretsRecipient: n.master.Recipient(), SecretsEpoch: 1}}}
	case *keydpb.Request_Unlock:
		switch {
		case !locked:
			return refuse(keydpb.Code_CODE_NOT_LOCKED)
		case string(v.Unlock.Seed) != string(n.Key.Seed()):
			return refuse(keydpb.Code_CODE_WRONG_KEY)
		}
		n.phase = controlpb.NodePhase_NODE_PHASE_ACTIVE
		return &keydpb.Response{Result: &keydpb.Response_Unlock{Unlock: &keydpb.UnlockResponse{}}}
	}
	return refuse(keydpb.Code_CODE_INVALID)
}

// manager says whether this node may answer Control now. n.mu is held.
func (n *Node) manager() error {
	switch {
	case n.phase == controlpb.NodePhase_NODE_PHASE_EMPTY:
		return apierr.NoCluster()
	case n.phase == controlpb.NodePhase_NODE_PHASE_LOCKED:
		return apierr.Locked()
	case n.phase == controlpb.NodePhase_NODE_PHASE_BROKEN:
		return apierr.NoLeader()
	case n.role != profilepb.Role_ROLE_MANAGER:
		return apierr.NotManager()
	case !n.leader:
		return apierr.NoLeader()
	}
	return nil
}
