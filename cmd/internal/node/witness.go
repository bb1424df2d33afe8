package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/quorum"
)

const (
	// witnessPatience bounds one question to another manager.
	witnessPatience = 2 * time.Second
	// witnessInterval is how often a follower asks the leader what it knows of the
	// others' disks, so that this does not go with the leader.
	witnessInterval = 10 * time.Second
)

// serveWitness answers the other managers.
func (m *managerState) serveWitness(ctx context.Context, p *port.Port, az *authz.Authorizer) error {
	srv := grpc.NewServer(append(az.ServerOptions(), keepAlive...)...)
	pkipb.RegisterWitnessServer(srv, witnessServer{m: m})
	return serveOn(ctx, p, pki.ALPNWitness, srv)
}

type witnessServer struct {
	pkipb.UnimplementedWitnessServer
	m *managerState
}

// Recall implements pkipb.WitnessServer.
func (s witnessServer) Recall(context.Context, *pkipb.RecallRequest) (*pkipb.RecallResponse, error) {
	resp := &pkipb.RecallResponse{Leads: s.m.store.IsLeader(), Index: s.m.store.LastIndex()}
	for _, srv := range s.m.store.Servers() {
		resp.Servers = append(resp.Servers, &pkipb.Manager{NodeId: srv.ID, Address: srv.Addr})
		if srv.Voter {
			resp.Voters = append(resp.Voters, srv.ID)
		}
	}
	for id, r := range s.m.store.Witnessed() {
		resp.Reaches = append(resp.Reaches, &pkipb.Reach{NodeId: id, Term: r.Term, Index: r.Index})
	}
	return resp, nil
}

// StepBack implements pkipb.WitnessServer.
func (s witnessServer) StepBack(ctx context.Context, _ *pkipb.StepBackRequest) (*pkipb.StepBackResponse, error) {
	id, ok := authz.FromContext(ctx)
	store := s.m.store
	switch {
	case !ok || id.NodeID == "":
		return nil, status.Error(codes.PermissionDenied, "the caller is not known")
	case !store.IsLeader() || id.NodeID == store.NodeID():
		return nil, status.Error(codes.FailedPrecondition, "this manager does not lead")
	}
	resp := &pkipb.StepBackResponse{}
	voter := false
	for _, srv := range store.Servers() {
		resp.Servers = append(resp.Servers, &pkipb.Manager{NodeId: srv.ID, Address: srv.Addr})
		voter = voter || srv.Voter && srv.ID == id.NodeID
	}
	// What it acknowledged before must not make it look healthy.
	store.Forget(id.NodeID)
	if voter {
		s.m.n.log.Warn("a manager's disk is an old copy: its vote is taken until it has followed anew", "node", id.NodeID)
		if err := store.DemoteVoter(ctx, id.NodeID); err != nil {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
	}
	store.Forget(id.NodeID)
	return resp, nil
}

// toWitness connects to another manager, whose id is checked where it is known.
// It returns the id that was met.
func (m *managerState) toWitness(ctx context.Context, id, addr string) (*pki.GRPCConn, string, error) {
	conn, err := pki.DialTLS(ctx, addr, m.creds.ClientConfig(pki.ALPNWitness, id))
	if err != nil {
		return nil, "", err
	}
	met, err := m.creds.VerifyPeer(conn.ConnectionState(), pki.ExpectServer(pki.ALPNWitness, id))
	if err != nil {
		conn.Close()
		return nil, "", err
	}
	c, err := pki.GRPCOver(conn)
	return c, met.NodeID, err
}

// recall asks one manager what it knows.
func (m *managerState) recall(ctx context.Context, id, addr string) (_ *pkipb.RecallResponse, met string, err error) {
	ctx, cancel := context.WithTimeout(ctx, witnessPatience)
	defer cancel()
	c, met, err := m.toWitness(ctx, id, addr)
	if err != nil {
		return nil, "", err
	}
	defer c.Close()
	resp, err := pkipb.NewWitnessClient(c).Recall(ctx, &pkipb.RecallRequest{})
	return resp, met, err
}

type witnessPeer struct{ id, addr string }

// witnesses are the managers to ask: those of the store's configuration or,
// where there is none, those whose addresses this node remembers.
func (m *managerState) witnesses() (out []witnessPeer) {
	self := m.n.who()
	for _, s := range m.store.Servers() {
		if s.ID != self.NodeID {
			out = append(out, witnessPeer{s.ID, s.Addr})
		}
	}
	if len(m.store.Servers()) > 0 {
		return out
	}
	for _, addr := range self.Managers {
		if addr != self.Advertise {
			out = append(out, witnessPeer{addr: addr})
		}
	}
	return out
}

// testimonies asks everybody once, those too of whom it hears by that. leader is
// the one that says it leads.
func (m *managerState) testimonies(ctx context.Context) (all map[string]quorum.Testimony, leader witnessPeer) {
	self := m.n.who().NodeID
	all = map[string]quorum.Testimony{}
	asked := map[string]bool{self: true}
	var mu sync.Mutex // guards all, leader and asked
	var wg sync.WaitGroup
	var ask func(p witnessPeer)
	ask = func(p witnessPeer) {
		wg.Go(func() {
			resp, met, err := m.recall(ctx, p.id, p.addr)
			if err != nil || met == self {
				return
			}
			t := quorum.Testimony{Leads: resp.GetLeads(), Index: resp.GetIndex()}
			for _, s := range resp.GetServers() {
				t.Servers = append(t.Servers, raftstore.Server{ID: s.GetNodeId(), Addr: s.GetAddress(), Voter: slices.Contains(resp.GetVoters(), s.GetNodeId())})
			}
			for _, r := range resp.GetReaches() {
				if r.GetNodeId() == self {
					t.Known = raftstore.Reach{Term: r.GetTerm(), Index: r.GetIndex()}
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all[met], asked[met] = t, true
			for _, s := range t.Servers {
				if !asked[s.ID] && len(asked) <= raftstore.MaxManagers {
					asked[s.ID] = true
					ask(witnessPeer{s.ID, s.Addr})
				}
			}
			if t.Leads {
				leader = witnessPeer{met, p.addr}
			}
		})
	}
	mu.Lock()
	for _, p := range m.witnesses() {
		asked[p.id] = true
		ask(p)
	}
	mu.Unlock()
	wg.Wait()
	return all, leader
}

// followWitness keeps what the leader knows of the others.
func (m *managerState) followWitness(ctx context.Context) error {
	for {
		if id, addr := m.store.Leader(); id != "" && !m.store.IsLeader() && id != m.n.who().NodeID {
			if resp, _, err := m.recall(ctx, id, addr); err == nil {
				told := map[string]raftstore.Reach{}
				for _, r := range resp.GetReaches() {
					told[r.GetNodeId()] = raftstore.Reach{Term: r.GetTerm(), Index: r.GetIndex()}
				}
				m.store.Testify(told)
			}
		}
		if sleep(ctx, witnessInterval) != nil {
			return ctx.Err()
		}
	}
}
