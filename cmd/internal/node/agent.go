package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/mesh"
	"github.com/redoubt-cluster/redoubt/mesh/overlay"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/scheduler/agent"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// managerFacts is what only a manager's agent reports.
type managerFacts struct {
	slotEpoch    func() uint64
	slotsLacking func() map[string]string
	storeKey     func() *schedulerpb.StoreKeyState
	ticket       func() *schedulerpb.TicketState
	appliedIndex func() uint64
	// admit judges a peer of the mesh by the records.
	admit func(tls.ConnectionState, net.Addr) error
}

// runAgent serves this node's tasks until ctx ends.
func (n *Node) runAgent(ctx context.Context, creds *pki.Credentials, managers func() []string, facts *managerFacts) error {
	var admit func(tls.ConnectionState, net.Addr) error
	if facts != nil {
		admit = facts.admit
	}
	networks, err := n.newMesh(creds, admit)
	if err != nil {
		return err
	}
	network, err := n.network(managers, networks.overlays)
	if err != nil {
		return err
	}
	tasks := n.newIdentities(creds, &n.denials)
	c := agent.Config{
		Identities: tasks.assigned, Session: tasks.session, Delivery: n.delivery(creds),
		Dial: func(ctx context.Context) (grpc.ClientConnInterface, io.Closer, error) {
			cc, err := n.dialManager(ctx, creds, managers())
			if err != nil {
				n.setTrouble(err)
				return nil, nil, err
			}
			return cc, cc, nil
		},
		Executor: n.rund, Network: network, Overlay: networks.overlays, OverlayChanged: networks.changed, Refresh: n.refresh, Connected: n.setSession, Described: n.reported.set, Logger: n.log.With("part", "agent"),
		Membership: func(what *schedulerpb.Membership) {
			if len(what.GetIssuer()) > 0 { // the keyset is another
				tasks.Rotated()
			}
			n.heardMembership(what)
		},
		Trusts:    creds.RootHashes,
		Retrusted: n.retrusted,
		Mesh:      networks.answer,
		Check:     n.judged(creds),
		Heard:     func() { networks.lease.hear(time.Now()) },
		Denials:   n.heardDenials,
		Describe:  func() *schedulerpb.NodeDescription { return n.describe(nil) },
		Managers:  n.keepManagers,
	}
	if facts != nil {
		c.Describe = func() *schedulerpb.NodeDescription { return n.describe(facts) }
		c.AppliedIndex = facts.appliedIndex
	}
	defer n.setSession(false)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return networks.run(ctx) })
	g.Go(func() error { return tasks.run(ctx) })
	g.Go(func() error { return ended(ctx, agent.Run(ctx, c)) })
	return g.Wait()
}

// keepManagers keeps what a manager says of where the managers are. One gone bad
// must not take the node from the others for good, nor write a file that is not
// read any more, nor have netd refuse what it is told.
func (n *Node) keepManagers(addrs []string) {
	err := pki.CheckAddresses(addrs)
	if err == nil {
		err = n.remember(func(m *member) { m.Managers = addrs })
	}
	if err != nil {
		n.log.Warn("the managers' addresses were not kept", "err", err)
	}
}

// network is the node bridge, by way of netd. Containers are kept away from the
// managers, from what nodes do not publish, and from clients who claim an address
// of a pool.
func (n *Node) network(managers func() []string, said *overlay.Manager) (*mesh.Local, error) {
	subnet, err := netip.ParsePrefix(n.cfg.BridgeSubnet)
	if err != nil {
		return nil, err
	}
	c := mesh.LocalConfig{Netd: n.netd, Subnet: subnet, DNS: n.dns(), Managers: managers, Logger: n.log.With("part", "mesh")}
	if said != nil {
		c.Pools, c.Reach = said.Pools, said.Reach
	}
	return mesh.NewLocal(c)
}

// dns are the configured servers, or the machine's own but those on loopback,
// which a container cannot reach.
func (n *Node) dns() (out []netip.Addr) {
	names := n.cfg.DNS
	if len(names) == 0 {
		data, err := os.ReadFile("/etc/resolv.conf")
		if err != nil {
			return nil // a machine without name servers
		}
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
				names = append(names, f[1])
			}
		}
	}
	for _, s := range names {
		a, err := netip.ParseAddr(s)
		if err != nil || a.IsLoopback() || len(out) == maxDNS {
			continue
		}
		out = append(out, a)
	}
	return out
}

// maxDNS is how many name servers a resolver asks (resolv.conf(5)).
const maxDNS = 3

// dialManager connects to the first manager that answers, as this node.
func (n *Node) dialManager(ctx context.Context, creds *pki.Credentials, addrs []string) (*pki.GRPCConn, error) {
	return port.DialGRPC(ctx, creds, addrs, grpc.WithChainUnaryInterceptor(n.noticeUnary), grpc.WithChainStreamInterceptor(n.noticeStream))
}

// noticeUnary and noticeStream pass errors by notice: the cluster's word that
// this node may not come in (it was removed, its certificate is too old).
func (n *Node) noticeUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return n.notice(invoke(ctx, method, req, reply, cc, opts...))
}

func (n *Node) noticeStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	cs, err := stream(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, n.notice(err)
	}
	return noticed{cs, n}, nil
}

type noticed struct {
	grpc.ClientStream
	n *Node
}

func (s noticed) RecvMsg(m any) error { return s.n.notice(s.ClientStream.RecvMsg(m)) }

// runRenewer keeps the node's leaf fresh; boot is nil on workers.
func (n *Node) runRenewer(ctx context.Context, creds *pki.Credentials, managers func() []string, boot *pki.Credentials) error {
	r := &pki.Renewer{Credentials: creds, Boot: boot, TPM: machineTPM{n.keyd}, Logger: n.log.With("part", "renewer"),
		Call: func(ctx context.Context, req *pkipb.RenewRequest) (*pkipb.RenewResponse, error) {
			cc, err := n.dialManager(ctx, creds, managers())
			if err != nil {
				return nil, err
			}
			defer cc.Close()
			return pkipb.NewRenewClient(cc).Renew(ctx, req)
		},
		Persist: func(ctx context.Context, got pki.Renewed) error {
			if boot == nil {
				return n.keepLeaf(ctx, "leaf", got.Leaf, got.Key, creds.Attested())
			}
			if got.Boot != nil {
				if err := n.keepLeaf(ctx, "boot", got.Boot, got.BootKey, creds.Attested()); err != nil {
					return err
				}
			}
			return n.keepManagerLeaf(ctx, got.Leaf, got.Key)
		},
	}
	take := func(said *pkipb.Roots) error { return n.takeRoots(creds, said) }
	if boot != nil {
		r.Expired = func(ctx context.Context) error { return n.reissue(ctx, creds) }
		take = nil // a manager's come with its store
	}
	r.Roots = take
	g, ctx := errgroup.WithContext(ctx)
	if take != nil {
		g.Go(func() error { return n.followRoots(ctx, take) })
	}
	g.Go(func() error { return ended(ctx, r.Run(ctx)) })
	g.Go(func() error { return n.followIssuer(ctx, r) })
	return g.Wait()
}

// stopTimeout bounds how long a leaving node waits for its containers: less than
// the command line waits for the answer.
const stopTimeout = 25 * time.Second

// abandonTasks is stopTasks for a node that leaves whatever comes of it: no
// container should go on that nobody answers for.
func (n *Node) abandonTasks(ctx context.Context) {
	if err := n.stopTasks(ctx); err != nil && ctx.Err() == nil {
		n.log.Warn("this node leaves and may go on running containers", "err", err)
	}
}

// stopTasks ends every container of this node: it is leaving.
func (n *Node) stopTasks(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	var gen mesh.Generation
	if _, err := n.rund.Apply(ctx, &rundpb.ApplyRequest{Generation: gen.Next()}); err != nil {
		return fmt.Errorf("stop the tasks: %w", err)
	}
	gone := errors.New("gone")
	left := map[string]bool{}
	err := n.rund.Watch(ctx, func(r *rundpb.WatchResponse) error {
		for _, t := range r.GetTasks() {
			left[t.GetTaskId()] = true
		}
		for _, id := range r.GetRemoved() {
			delete(left, id)
		}
		if len(left) == 0 {
			return gone
		}
		return nil
	})
	if !errors.Is(err, gone) {
		return fmt.Errorf("stop the tasks: %w", err)
	}
	network, err := n.network(func() []string { return n.who().Managers }, nil)
	if err != nil {
		return err
	}
	_, err = network.Sync(ctx, nil)
	return errors.Join(err, n.clearMesh(ctx))
}

// lookAgain has the agent look at the node and tell managers what it found.
func (n *Node) lookAgain() {
	select {
	case n.refresh <- struct{}{}:
	default: // asked for already
	}
}
