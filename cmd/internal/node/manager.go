package node

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

var (
	// errLeaving ends a manager's state on the operator's wish.
	errLeaving = errors.New("leaving")
	// errKeydLost ends the process: the keys keyd lent must be forgotten.
	errKeydLost = errors.New("keyd went away: this manager is locked until it is opened again")
)

// manager waits for the key, then serves the cluster.
func (n *Node) manager(ctx context.Context) (state, error) { return n.managerAfter(nil)(ctx) }

// managerAfter is manager; req, when set, is the init or join that led here and
// is answered once the manager serves, or cannot.
func (n *Node) managerAfter(req *request) state {
	return func(ctx context.Context) (state, error) {
		var left *request
		var demoted *leafFile
		err := n.serveManager(ctx, func() {
			if req != nil {
				req.answer <- answer{self: n.who()}
				req = nil
			}
		}, &left, &demoted)
		if req != nil {
			req.refuse(fmt.Errorf("the manager could not start: %w", err))
		}
		switch {
		case errors.Is(err, errLeaving) && ctx.Err() == nil:
			n.abandonTasks(ctx)
			return n.leave(ctx, left)
		case errors.Is(err, errRemoved) && ctx.Err() == nil:
			return n.removed, nil
		case errors.Is(err, errRecovered) && ctx.Err() == nil:
			return n.managerAfter(left), nil
		case errors.Is(err, errOldCopy) && ctx.Err() == nil:
			if err := n.disk.dropStore(n.incarnation.Load()); err != nil {
				return nil, err
			}
			return n.manager, nil
		case errors.Is(err, errDemoted) && ctx.Err() == nil:
			m := n.who()
			if err := n.finishDemotion(ctx, &m, demoted); err != nil {
				return nil, err // begun: it goes on at the next start
			}
			return n.worker, nil
		}
		if ctx.Err() == nil && !errors.Is(err, errKeydLost) {
			err = errors.Join(err, n.disk.noteFailure(err.Error()))
		}
		return nil, err
	}
}

func (n *Node) serveManager(ctx context.Context, ready func(), left **request, demoted **leafFile) error {
	boot, err := n.bootCredentials(ctx)
	if err != nil {
		return n.serveBroken(ctx, err, left)
	}
	n.boot.Store(boot)
	defer n.boot.Store(nil)
	listener, err := net.Listen("tcp", n.cfg.Listen)
	if err != nil {
		return fmt.Errorf("%w: free the port, or set node.listen", err)
	}
	admit := &admission{}
	p, err := port.New(port.Config{Listener: listener, Boot: boot, Admit: admit.admit, Refused: admit.tell, Logger: n.log.With("part", "port")})
	if err != nil {
		listener.Close()
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return ended(ctx, p.Serve(ctx)) })
	g.Go(func() error {
		keys, err := n.awaitKeys(ctx, p, boot, left)
		if err != nil {
			return err
		}
		defer keys.watch.Close()
		return n.serveUnlocked(ctx, p, boot, admit, keys, ready, left, demoted)
	})
	return g.Wait()
}

// ended turns a clean end into the reason for it, so that a group's other
// members end too.
func ended(ctx context.Context, err error) error {
	if err == nil {
		return ctx.Err()
	}
	return err
}

func (n *Node) bootCredentials(ctx context.Context) (*pki.Credentials, error) {
	f, err := n.disk.loadLeaf("boot")
	if err != nil {
		return nil, err
	}
	creds, err := n.credentials(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.disk.path("boot"), err)
	}
	return creds, nil
}

func (n *Node) credentials(ctx context.Context, l *leafFile) (*pki.Credentials, error) {
	key, err := n.leafKey(ctx, l)
	if err != nil {
		return nil, err
	}
	return n.credentialsOf(l.Chain, key)
}

func (n *Node) credentialsOf(der [][]byte, key *ecdsa.PrivateKey) (*pki.Credentials, error) {
	chain := &profilepb.CertificateChain{Certificates: der}
	kept, err := n.disk.loadRoots()
	if err != nil {
		return nil, err
	}
	trust, err := pki.TrustFromChain(chain, kept)
	if err != nil {
		return nil, err
	}
	return pki.NewCredentials(chain, key, trust)
}

// keys is what keyd lends to an unlocked manager.
type keys struct {
	creds *pki.Credentials
	ring  *autolock.Ring
	watch *keydclient.Watch
	// incarnation of the cluster, from keyd's own state.
	incarnation uint64
}

// awaitKeys is the locked state: it answers "locked" on the port and returns
// when keyd has been opened.
func (n *Node) awaitKeys(ctx context.Context, p *port.Port, boot *pki.Credentials, left **request) (*keys, error) {
	// Whether a key helps is keyd's to say: its files may be damaged.
	n.setPhase(controlpb.NodePhase_NODE_PHASE_LOCKED, nil, "keyd has not said yet what it needs")
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.serveLock(gctx, p, nil, boot, nil) })
	g.Go(func() error { return n.askRelease(gctx, boot) })
	g.Go(func() error { return n.serveRequests(gctx, apierr.Locked(), left, nil) })
	var got *keys
	opened := errors.New("opened")
	g.Go(func() error {
		var err error
		if got, err = n.openKeys(gctx); err == nil {
			err = opened
		}
		return err
	})
	if err := g.Wait(); !errors.Is(err, opened) {
		return nil, err
	}
	return got, nil
}

// lockedMessage says what to do, and why the store stopped before, if it did.
func (n *Node) lockedMessage() string {
	message := "run `redoubt unlock` on this node"
	if why := n.notReleased.Load(); why != nil {
		message += "; the other managers do not open it: " + *why
	}
	if cause := n.disk.failure(); cause != "" {
		message += "; it had stopped by itself: " + cause
	}
	return message
}

// retryKeyd is the pause before keyd is asked again after a failure.
const retryKeyd = 500 * time.Millisecond

// openKeys waits until the disk takes writes and keyd is open, and takes what
// keyd lends.
func (n *Node) openKeys(ctx context.Context) (*keys, error) {
	var last string
	for {
		var k *keys
		full := n.disk.takesWrites()
		err := full
		if err == nil {
			k, err = n.tryKeys(ctx)
		}
		if err == nil || ctx.Err() != nil {
			return k, err
		}
		message := "waiting for keyd: " + err.Error()
		switch {
		case full != nil:
			message = full.Error()
		case keydclient.CodeOf(err) == keydpb.Code_CODE_EMPTY:
			message = "keyd's directory was lost: restore it, or `redoubt leave --force` and join again"
		}
		if message != last {
			last = message
			n.log.Warn("not open yet", "err", err)
		}
		n.setPhase(controlpb.NodePhase_NODE_PHASE_LOCKED, nil, "%s", message)
		timer := time.NewTimer(retryKeyd)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}

func (n *Node) tryKeys(ctx context.Context) (_ *keys, err error) {
	st, err := n.keyd.Status(ctx)
	if err != nil {
		return nil, err
	}
	if st.GetState() == keydpb.LockState_LOCK_STATE_LOCKED {
		n.setPhase(controlpb.NodePhase_NODE_PHASE_LOCKED, nil, "%s", n.lockedMessage())
	}
	if err := n.keyd.WaitUnlocked(ctx); err != nil {
		return nil, err
	}
	// Opened before the keys are taken: keyd's end is noticed whenever it comes.
	watch, err := n.keyd.Watch(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			watch.Close()
		}
	}()
	f, err := n.disk.loadLeaf("leaf")
	if err != nil {
		return nil, err
	}
	resp, err := n.keyd.OpenStore(ctx, &keydpb.OpenStoreRequest{SealedLeaf: f.Sealed})
	if err != nil {
		return nil, err
	}
	defer clear(resp.GetDek())
	defer clear(resp.GetFormerDek())
	defer clear(resp.GetLeafKey())
	if resp.GetClusterId() != n.who().ClusterID || resp.GetNodeId() != n.who().NodeID {
		return nil, errors.New("keyd holds the keys of another node: restore its directory")
	}
	k := &keys{watch: watch, incarnation: max(1, resp.GetIncarnation())}
	key, err := parseKey(resp.GetLeafKey())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.disk.path("leaf"), err)
	}
	if k.creds, err = n.credentialsOf(f.Chain, key); err != nil {
		return nil, fmt.Errorf("%s: %w", n.disk.path("leaf"), err)
	}
	if k.creds.Identity().NodeID != n.who().NodeID {
		return nil, fmt.Errorf("%s is of another node: restore it", n.disk.path("leaf"))
	}
	if err := n.reissue(ctx, k.creds); err != nil {
		return nil, err
	}
	if k.ring, err = autolock.NewRing(resp.GetDek(), resp.GetDekEpoch()); err != nil {
		return nil, err
	}
	if former := resp.GetFormerDek(); len(former) > 0 { // a renewal was cut short
		err = k.ring.Add(former, resp.GetDekState().GetFormerEpoch())
	}
	return k, err
}

// serveRequests answers the operator's requests on a manager: leave with force,
// recover where recoverable does not refuse it, and nothing else.
func (n *Node) serveRequests(ctx context.Context, otherwise error, left **request, recoverable func() error) error {
	for {
		req, err := n.next(ctx)
		if err != nil {
			return err
		}
		leave, ok := req.do.(*controlpb.LeaveRequest)
		if _, recovers := req.do.(*controlpb.RecoverRequest); recovers && recoverable != nil {
			if err := recoverable(); err != nil {
				req.refuse(err)
				continue
			}
			*left = &req
			return errRecovering
		}
		switch {
		case !ok:
			req.refuse(otherwise)
		case !leave.GetForce():
			req.refuse(apierr.State("to give up this manager's copy of the cluster for good, add --force",
				"a manager cannot leave the quorum yet"))
		default:
			*left = &req
			return errLeaving
		}
	}
}

// admission decides who may connect to the port. It knows nobody until the
// store is open.
type admission struct {
	decide atomic.Pointer[func(alpn string, p *authz.Peer) error]
	// refused is told of those that are refused; nil: there is no audit log yet.
	refused atomic.Pointer[func(id authz.Identity, method, reason string)]
}

func (a *admission) tell(id authz.Identity, method, reason string) {
	if refused := a.refused.Load(); refused != nil {
		(*refused)(id, method, reason)
	}
}

func (a *admission) admit(alpn string, p *authz.Peer) error {
	decide := a.decide.Load()
	if decide == nil {
		return errors.New("this manager is starting")
	}
	return (*decide)(alpn, p)
}
