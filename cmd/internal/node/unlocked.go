package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/redoubt-cluster/redoubt/autolock"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/audit"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

// managerState is a running, unlocked manager.
type managerState struct {
	n     *Node
	store *raftstore.Store
	creds *pki.Credentials
	boot  *pki.Credentials
	roles *roles.Engine
	// denials has what is refused here recorded.
	denials *audit.Denials
	// slotEpoch is what this manager's keyd is sealed to.
	slotEpoch atomic.Uint64
	// slotsLacking is, by slot, why this manager lacks it; nil: not known yet.
	slotsLacking atomic.Pointer[map[string]string]
	// keysetEpoch is what this manager's keyd signs with.
	keysetEpoch atomic.Uint64
	// storeKey is what this manager says of the key of its store; nil: nothing yet.
	// storeKeyLook has it looked after, capacity 1.
	storeKey     atomic.Pointer[schedulerpb.StoreKeyState]
	storeKeyLook chan struct{}
	// ticket is the newest that others release this manager by; nil: there is none.
	ticket   atomic.Pointer[schedulerpb.TicketState]
	ticketMu sync.Mutex // held while it is asked for, so that no older answer comes last
	// absence is who is missing while there is no quorum.
	absence absence
	// spread wakes who tells nodes about themselves.
	spread chan struct{}
	// leaderless is since when no leader was heard, in Unix nanoseconds; 0 while
	// one is.
	leaderless atomic.Int64
	// vacant is the same for this moment: who was heard once ends it.
	vacant atomic.Int64
	// opened is set once store is: raft may dial before Open returns.
	opened atomic.Bool
	// leaves are re-issued certificates that this manager, leading, has met.
	leaves chan *x509.Certificate
	// strange are certificates that no record named, and journal is keyd's.
	strange chan shown
	journal journal

	// serving is closed once calls to the leader find somebody here, if it leads.
	serving chan struct{}

	// dispatcher knows whom it hears while this manager leads; nil at first.
	dispatcher atomic.Pointer[dispatcher.Dispatcher]

	// direct answers this node's own local root while it leads; nil at first.
	direct atomic.Pointer[direct]

	links  map[string]*leaderLink // by protocol; not changed
	clocks *clocks
}

func (m *managerState) lacking() map[string]string {
	if lacks := m.slotsLacking.Load(); lacks != nil {
		return *lacks
	}
	return nil
}

// closeTimeout bounds handing over leadership and closing the store.
const closeTimeout = 10 * time.Second

// serveUnlocked runs the store and everything above it until ctx ends or
// something this manager cannot do without fails.
func (n *Node) serveUnlocked(ctx context.Context, p *port.Port, boot *pki.Credentials, admit *admission, k *keys, ready func(), left **request, demoted **leafFile) (err error) {
	n.setPhase(controlpb.NodePhase_NODE_PHASE_STARTING, nil, "opening the store")
	self := n.who()
	listener, err := p.Listen(pki.ALPNRaft)
	if err != nil {
		return err
	}
	if err := n.disk.keepStore(k.incarnation); err != nil {
		return err
	}
	m := &managerState{n: n, creds: k.creds, boot: boot, leaves: make(chan *x509.Certificate, 16), strange: make(chan shown, 16), journal: n.keyd, serving: make(chan struct{}), spread: make(chan struct{}, 1), storeKeyLook: make(chan struct{}, 1)}
	m.links = newLinks(m)
	m.clocks = newClocks(m)
	m.leaderless.Store(1) // for ever
	cfg := n.storeConfig(k.ring, k.incarnation)
	cfg.Dormant = !self.Founding
	cfg.Clock, cfg.InitialPeers, cfg.Transport.Listener, cfg.Transport.Dial = m.clocks, self.Peers, listener, m.dialRaft
	m.store, err = raftstore.Open(ctx, cfg)
	if err != nil {
		return err
	}
	store := m.store
	n.incarnation.Store(k.incarnation)
	m.opened.Store(true)
	close(m.clocks.opened)
	defer func() {
		m.closeLinks()
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, store.Close(cctx))
		k.ring.Close()
	}()
	k.creds.Heed(m.known, m.behind)
	boot.Heed(m.known, nil)
	if m.roles, err = roles.New(store, m.records()); err != nil {
		return err
	}
	m.denials = m.newDenials()
	directory := pkistore.Directory{Store: store}
	az := authz.New(authz.Config{Directory: directory, People: directory, Judge: m.roles, Refused: m.denials.Refused, Logger: n.log.With("part", "authz"), Changed: func(subjects []string) {
		p.Recheck(subjects)
		m.dropDenied(subjects)
		n.recheckPeers()
	}})
	decide := m.admitTo(az)
	admit.decide.Store(&decide)
	tell := m.denials.Refused
	admit.refused.Store(&tell)
	defer admit.refused.Store(nil)
	p.Unlock(k.creds, m.leader)
	defer p.Lock()

	outer := ctx
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := k.watch.Wait(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w (%v)", errKeydLost, err)
	})
	g.Go(func() error {
		select {
		case <-store.Done():
			return fmt.Errorf("the store stopped: %w", errors.Join(store.Err(), raftstore.ErrClosed))
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if self.Founding {
		if err := m.found(ctx, boot); err != nil {
			store.Close(context.WithoutCancel(ctx))
			return errors.Join(err, g.Wait())
		}
	}
	g.Go(func() error { return ended(ctx, az.Run(ctx)) })
	g.Go(func() error {
		return ended(ctx, k.creds.FollowCluster(ctx, store, n.log, n.disk.saveRoots, func() {
			p.Recheck(nil)
			n.toldRoots()
		}))
	})
	g.Go(func() error { return ended(ctx, boot.FollowCluster(ctx, store, n.log, nil, nil)) })
	g.Go(func() error { return m.followLeader(ctx, p) })
	g.Go(func() error { return m.watchLeaderless(ctx) })
	g.Go(func() error { return ended(ctx, m.reconcile(ctx)) })
	g.Go(func() error { return m.followTable(ctx, autolockstore.Slots, m.reseal) })
	g.Go(func() error { return m.followTable(ctx, pkistore.Nodes, m.keepOthers) })
	g.Go(func() error { return m.followTable(ctx, pkistore.BreakGlasses, m.announcer()) })
	g.Go(func() error { return m.keepStoreKey(ctx, k) })
	g.Go(func() error { return m.clocks.run(ctx) })
	g.Go(func() error { return m.followTable(ctx, autolockstore.Keysets, m.adoptKeyset) })
	g.Go(func() error { return n.awaitDemotion(ctx, k.creds, m.managers, demoted) })
	g.Go(func() error { return n.serveLock(ctx, p, az, boot, m) })
	g.Go(func() error { return m.serveWitness(ctx, p, az) })
	g.Go(func() error { return m.followWitness(ctx) })
	g.Go(func() error { return m.keepRecords(ctx) })
	g.Go(func() error { return m.carryJournal(ctx) })
	g.Go(func() error { return m.denials.Run(ctx) })
	g.Go(func() error { return m.serve(ctx, p, az) })
	g.Go(func() error { return ended(ctx, n.runRenewer(ctx, k.creds, m.managers, boot)) })
	g.Go(func() error {
		m.noteTicket(ctx) // before the first report: one without a ticket would take back the last
		return n.runAgent(ctx, k.creds, m.managers, &managerFacts{m.slotEpoch.Load, m.lacking, m.storeKey.Load, m.ticket.Load, store.AppliedIndex, m.admitPeer(az)})
	})
	g.Go(func() error { return n.awaitRemoval(ctx) })
	g.Go(func() error { return n.serveRequests(ctx, apierr.InCluster(self.ClusterID), left, m.recoverable) })
	g.Go(func() error {
		if err := m.settle(ctx); err != nil {
			return err
		}
		if err := m.awaitLeader(ctx); err != nil {
			return err
		}
		select {
		case <-m.serving:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := n.disk.noteFailure(""); err != nil {
			return err
		}
		n.setPhase(controlpb.NodePhase_NODE_PHASE_ACTIVE, m, "")
		ready()
		<-ctx.Done()
		return ctx.Err()
	})
	if err := g.Wait(); !errors.Is(err, errRecovering) || outer.Err() != nil {
		return err
	}
	if err := m.recover(outer, k, boot); err != nil {
		(*left).refuse(err)
		return err
	}
	return errRecovered
}

// storeConfig is what every opening of this manager's store has in common.
func (n *Node) storeConfig(ring *autolock.Ring, incarnation uint64) raftstore.Config {
	self := n.who()
	return raftstore.Config{Dir: n.disk.raftDir(incarnation), NodeID: self.NodeID, ClusterID: self.ClusterID, Incarnation: incarnation,
		Tables: tables(), Sealer: ring, LogStore: raftstore.LogStore(n.cfg.Raft.LogStore), Logger: n.log.With("part", "store"),
		Transport: raftstore.Transport{Advertise: raftstore.JoinAddr(self.NodeID, self.Advertise)}}
}

// tables are all rooms' tables.
func tables() []raftstore.Registered {
	all := append(pkistore.Tables(), schedstore.Tables()...)
	all = append(all, secretstore.Tables()...)
	all = append(all, meshstore.Tables()...)
	return append(all, autolockstore.Tables()...)
}

// storeLevel is what this version understands of the store.
func storeLevel() uint32 { return raftstore.Understood(tables()) }

func (m *managerState) fill(s *selfStatus) {
	s.term, s.applied = m.store.Term(), m.store.AppliedIndex()
	s.leader = m.store.IsLeader()
	_, s.leaderAddr = m.store.Leader()
	s.leafNotAfter = m.creds.Leaf().NotAfter.Unix()
	if m.leaderlessFor() > noQuorumAfter && s.phase == controlpb.NodePhase_NODE_PHASE_ACTIVE {
		s.phase, s.message = controlpb.NodePhase_NODE_PHASE_NO_QUORUM, lostQuorum
	}
	if note := m.renewedNote(); note != "" {
		s.message = strings.TrimPrefix(s.message+"; "+note, "; ")
	}
	if off := m.clocks.offset(); off.Abs() > warnSkew {
		s.message = strings.TrimPrefix(s.message+"; "+describeOffset(off), "; ")
	}
}

// skews are the clocks to warn of: the other managers', and this one's.
func (m *managerState) skews() map[string]time.Duration {
	out := m.clocks.skews()
	if off := m.clocks.offset(); off.Abs() > warnSkew {
		// It is this one: the others are not to blame.
		return map[string]time.Duration{m.n.who().NodeID: off}
	}
	return out
}

// leader says where h2 connections go.
func (m *managerState) leader() port.Leader {
	if m.store.IsLeader() {
		return port.Leader{Self: true}
	}
	id, addr := m.store.Leader()
	if id == m.n.who().NodeID {
		return port.Leader{} // elected, but not caught up yet
	}
	return port.Leader{NodeID: id, Address: addr}
}

// admitTo is the check at connect. Between managers the configuration of the
// store decides, and a record that is not denied: a manager that was away must
// still accept a leader whose renewed certificate it can only learn of from that
// leader.
func (m *managerState) admitTo(az *authz.Authorizer) func(string, *authz.Peer) error {
	directory := pkistore.Directory{Store: m.store}
	return func(alpn string, p *authz.Peer) error {
		m.presented(p)
		if alpn != pki.ALPNRaft && alpn != pki.ALPNLeader && alpn != pki.ALPNWitness {
			return az.CheckPeer(alpn, p)
		}
		rec, err := directory.Node(p.NodeID)
		switch {
		case err != nil:
			return err
		case rec.GetDenied():
			return fmt.Errorf("node %s was removed from the cluster", p.NodeID)
		case rec != nil && rec.GetRole() != profilepb.Role_ROLE_MANAGER:
			return fmt.Errorf("node %s is no manager any more", p.NodeID)
		case !m.store.PeerAllowed(p.NodeID) && (alpn != pki.ALPNWitness || rec == nil): // it may ask before it is added
			return fmt.Errorf("node %s is no manager of this cluster", p.NodeID)
		}
		// The issuers may have changed since it shook hands.
		if err := m.creds.Trust().Again(p, alpn); err != nil {
			return err
		}
		m.met(p.Leaf)
		return nil
	}
}

// admitPeer judges a peer of the mesh by the records.
func (m *managerState) admitPeer(az *authz.Authorizer) func(tls.ConnectionState, net.Addr) error {
	return func(cs tls.ConnectionState, at net.Addr) error {
		p, err := m.creds.VerifyPeer(cs, pki.ExpectClient(pki.ALPNPeer))
		if err != nil {
			return err
		}
		p.Source = at
		m.presented(p)
		return az.CheckPeer(pki.ALPNPeer, p)
	}
}

// known reports whether a node's record names that leaf's key, whatever the
// record says besides; a person's must be good.
func (m *managerState) known(id profile.Identity) bool {
	if id.Person != "" {
		p, err := pkistore.Directory{Store: m.store}.Person(id.Person)
		return err == nil && authz.CheckPerson(p, id.Person, id.SPKI) == nil
	}
	n, err := pkistore.Directory{Store: m.store}.Node(id.NodeID)
	if err != nil || len(id.SPKI) == 0 {
		return false
	}
	// By role: a boot leaf's key lies on the disk in clear, and must not pass for a
	// manager's with whoever can still sign as a former issuer.
	if id.Role == profilepb.Role_ROLE_BOOT {
		return bytes.Equal(id.SPKI, n.GetBootSpki())
	}
	return bytes.Equal(id.SPKI, n.GetLeafSpki()) || bytes.Equal(id.SPKI, n.GetPreviousSpki())
}

// behind says for how long no leader was heard.
func (m *managerState) behind() time.Duration {
	since := m.leaderless.Load()
	if since == 0 {
		return 0
	}
	return time.Since(time.Unix(0, since))
}

// managers are the addresses to dial: the leader's first.
func (m *managerState) managers() []string {
	_, leader := m.store.Leader()
	var out []string
	if leader != "" {
		out = append(out, leader)
	}
	for _, s := range m.store.Servers() {
		if s.Addr != leader {
			out = append(out, s.Addr)
		}
	}
	if len(out) == 0 {
		return m.n.who().Managers
	}
	return out
}
