package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/redoubt-cluster/redoubt/mesh"
	"github.com/redoubt-cluster/redoubt/mesh/named/namedpb"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
	"github.com/redoubt-cluster/redoubt/mesh/overlay"
	"github.com/redoubt-cluster/redoubt/mesh/peer"
	"github.com/redoubt-cluster/redoubt/pki"
)

// meshSide is the node's part of the mesh while it is a member: its networks, and
// the other ends of its tunnels.
type meshSide struct {
	n        *Node
	creds    *pki.Credentials
	admit    func(tls.ConnectionState, net.Addr) error // nil: everybody with a certificate
	overlays *overlay.Manager
	changed  chan struct{} // capacity 1
	lease    *lease

	mu    sync.Mutex // guards the following
	self  overlay.Node
	views []overlay.Node
	// shared and own are who is on which network, and whether this node's tasks there
	// serve.
	shared map[string][]string
	own    map[string]map[string]bool
	peers  *peer.Peers // nil: its port is not open
	err    error       // why not
}

// newMesh makes the mesh of a member. It does nothing before run.
func (n *Node) newMesh(creds *pki.Credentials, admit func(tls.ConnectionState, net.Addr) error) (*meshSide, error) {
	m := &meshSide{n: n, creds: creds, admit: admit, changed: make(chan struct{}, 1), shared: map[string][]string{}, own: map[string]map[string]bool{}, lease: newLease(n.cfg.Mesh.Lease)}
	var err error
	who := n.who()
	m.overlays, err = overlay.New(overlay.Config{Netd: n.netd, Named: n.named, Owner: who.ClusterID + "/" + who.NodeID, Until: func() time.Time { return creds.Leaf().NotAfter },
		Heard: m.lease.last, Recalled: m.lease.hear,
		Peers: m.set, Share: m.share, Tell: m.tellOf, Resolvers: n.resolvers, Changed: func() {
			select {
			case m.changed <- struct{}{}:
			default:
			}
		}, Logger: n.log.With("part", "overlay")})
	return m, err
}

// run serves until ctx ends.
func (m *meshSide) run(ctx context.Context) error {
	m.n.mesh.Store(m)
	defer m.n.mesh.CompareAndSwap(m, nil)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return ended(ctx, m.overlays.Run(ctx)) })
	g.Go(func() error { return m.runPeers(ctx) })
	g.Go(func() error { return m.lease.run(ctx, m.leased) })
	return g.Wait()
}

// retryPeers is the pause after the peers' port could not be opened.
const retryPeers = 2 * time.Second

// runPeers keeps the peers' port open, but in FIPS mode. A port that is taken makes the mesh
// degraded and ends nothing else.
func (m *meshSide) runPeers(ctx context.Context) error {
	if m.n.env.FIPS { // their tunnels are WireGuard's
		<-ctx.Done()
		return ctx.Err()
	}
	for {
		err := m.servePeers(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m.mu.Lock()
		said := m.err != nil && err != nil && m.err.Error() == err.Error()
		m.peers, m.err = nil, err
		m.mu.Unlock()
		if !said {
			m.n.log.Error("this node has no tunnels to its peers; it is tried again", "err", err)
		}
		t := time.NewTimer(retryPeers)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

func (m *meshSide) servePeers(ctx context.Context) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", PeerAddress(m.n.cfg.Listen))
	if err != nil {
		return fmt.Errorf("%w: free the port, or let another address have it with node.listen", err)
	}
	p, err := peer.New(peer.Options{ID: m.n.who().NodeID, TLS: m.creds, Netd: peer.Netd(m.n.netd), Listener: l, Admit: m.admit, Heard: m.overlays.Heard, Tunnels: m.overlays.SetTunnels, Silent: m.overlays.SetSilent,
		Port: uint16(m.n.cfg.Mesh.Port), UnderlayMTU: m.n.cfg.Mesh.UnderlayMTU, Logger: m.n.log.With("part", "peer")})
	if err != nil {
		l.Close()
		return err
	}
	m.mu.Lock()
	m.peers, m.err = p, nil
	m.tell()
	m.tellAll()
	m.mu.Unlock()
	return p.Run(ctx)
}

// PeerAddress is where a node that listens there has its peers' port.
func PeerAddress(listen string) string {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		host = "0.0.0.0"
	}
	return net.JoinHostPort(host, strconv.Itoa(peer.DefaultPort))
}

// set takes who the peers are.
func (m *meshSide) set(self overlay.Node, peers []overlay.Node) {
	m.mu.Lock()
	first := !m.self.Mesh.IsValid()
	m.self, m.views = self, peers
	m.tell()
	m.mu.Unlock()
	if first { // managers place nothing on networks here before they know of it
		m.n.lookAgain()
	}
}

// tell passes that on. m.mu is held.
func (m *meshSide) tell() {
	if m.peers == nil || !m.self.Mesh.IsValid() {
		return
	}
	known := m.views
	if m.lease.ended() {
		known = nil
	}
	views := make([]peer.View, 0, len(known))
	for _, v := range known {
		views = append(views, peer.View{ID: v.ID, Mesh: v.Mesh.Addr(), Underlay: v.Underlay})
	}
	if err := m.peers.Set(m.self.Mesh, views); err != nil {
		m.n.log.Warn("not every peer can be one", "err", err)
	}
}

// leased has peers, or takes them, as the lease ends and begins.
func (m *meshSide) leased(over bool) {
	if over {
		m.n.log.Warn("no manager was heard for so long that peers may have been removed: this node has none until one is", "lease", m.lease.life)
	} else {
		m.n.log.Info("a manager is heard again: this node has its peers back")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tell()
}

// recheck asks again about every peer that is connected: somebody was removed.
func (n *Node) recheckPeers() {
	m := n.mesh.Load()
	if m == nil {
		return
	}
	m.mu.Lock()
	p := m.peers
	m.mu.Unlock()
	if p != nil {
		p.Recheck()
	}
}

// resolvers are asked for names that are not of the cluster: the configured ones,
// or the machine's own, by the node itself and thus also on loopback.
func (n *Node) resolvers() (out []string) {
	names := n.cfg.DNS
	if len(names) == 0 {
		data, err := os.ReadFile("/etc/resolv.conf")
		if err != nil {
			return nil
		}
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
				names = append(names, f[1])
			}
		}
	}
	for _, s := range names {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || s == overlay.Resolver || len(out) == maxDNS {
			continue
		}
		out = append(out, a.Unmap().String())
	}
	return out
}

// clearMesh takes everything of the mesh from the helpers: this node leaves.
func (n *Node) clearMesh(ctx context.Context) error {
	var gen mesh.Generation
	errs := []error{}
	for _, req := range []*netdpb.Request{
		{Verb: &netdpb.Request_Ingress{Ingress: &netdpb.IngressRequest{Generation: gen.Next()}}},
		{Verb: &netdpb.Request_Overlay{Overlay: &netdpb.OverlayRequest{Generation: gen.Next()}}},
		{Verb: &netdpb.Request_Fabric{Fabric: &netdpb.FabricRequest{Generation: gen.Next()}}},
	} {
		resp := &netdpb.Response{}
		err := n.netd.Call(ctx, req, resp)
		if err == nil && resp.GetError() != nil {
			err = errors.New(resp.GetError().GetMessage())
		}
		errs = append(errs, err)
	}
	resp := &namedpb.Response{}
	err := n.named.Call(ctx, &namedpb.Request{Verb: &namedpb.Request_Declare{Declare: &namedpb.DeclareRequest{Generation: gen.Next()}}}, resp)
	if err == nil && resp.GetError() != nil {
		err = errors.New(resp.GetError().GetMessage())
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return fmt.Errorf("take the node off its networks: %w", err)
	}
	return nil
}
