package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// Up makes a lab and returns when every node is Ready. On an error the lab
// stays as it is, with its logs, until Down.
func Up(ctx context.Context, o Options) (*Lab, error) {
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := checkTools(o.BinDir); err != nil {
		return nil, err
	}
	start := time.Now()
	l, err := create(o)
	if err != nil {
		return nil, err
	}
	if err := l.bootAll(ctx, o); err != nil {
		return l, err
	}
	o.Log("%d hosts up after %.1f s", len(l.Hosts), time.Since(start).Seconds())
	if err := l.form(ctx, o); err != nil {
		return l, err
	}
	l.Ready = true
	o.Log("all ready after %.1f s", time.Since(start).Seconds())
	return l, l.save()
}

func (l *Lab) bootAll(ctx context.Context, o Options) error {
	if err := l.copyBinaries(o.BinDir); err != nil {
		return err
	}
	if err := l.makeCA(); err != nil {
		return err
	}
	if err := l.makeBridge(); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, h := range l.Hosts {
		g.Go(func() error {
			if err := l.writeHost(h); err != nil {
				return err
			}
			return l.boot(ctx, h)
		})
	}
	return g.Wait()
}

// form makes the cluster: the first manager, then the other managers one at a
// time (membership changes are), and beside them the workers.
func (l *Lab) form(ctx context.Context, o Options) error {
	first := l.Hosts[0]
	if err := l.init(ctx, first); err != nil {
		return fmt.Errorf("init on %s: %w", first.Name, err)
	}
	o.Log("%s made the cluster", first.Name)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for _, h := range l.Hosts[1:] {
			if h.Role != "manager" {
				continue
			}
			if err := l.join(gctx, h, profilepb.Role_ROLE_MANAGER); err != nil {
				return err
			}
			o.Log("%s joined", h.Name)
		}
		return nil
	})
	for _, h := range l.Hosts {
		if h.Role == "worker" {
			g.Go(func() error {
				if err := l.join(gctx, h, profilepb.Role_ROLE_WORKER); err != nil {
					return err
				}
				o.Log("%s joined", h.Name)
				return nil
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return l.AwaitReady(ctx, len(l.Hosts))
}

// init makes the cluster on h. The key is on disk before the cluster exists.
func (l *Lab) init(ctx context.Context, h Host) error {
	c, err := apiclient.Dial(ctx, l.APISocket(h))
	if err != nil {
		return err
	}
	defer c.Close()
	key := autolock.NewOperatorKey()
	defer key.Wipe()
	if err := atomicfile.Write(l.KeyFile(), []byte(key.String()+"\n")); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, bootWait)
	defer cancel()
	_, err = c.Init(ctx, &controlpb.InitRequest{Slot: key.Slot(), Advertise: l.clusterAddr(h)})
	return apiclient.Err(err)
}

func (l *Lab) clusterAddr(h Host) string { return l.Addr(h).String() + ":2377" }

// join makes a token through the first manager's API and joins h with it.
func (l *Lab) join(ctx context.Context, h Host, role profilepb.Role) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	manager, err := apiclient.Dial(ctx, l.APISocket(l.Hosts[0]))
	if err != nil {
		return err
	}
	defer manager.Close()
	node, err := apiclient.Dial(ctx, l.APISocket(h))
	if err != nil {
		return err
	}
	defer node.Close()
	token, _, err := apiclient.CreateToken(ctx, manager, &controlpb.CreateTokenRequest{Role: role, NodeName: h.Name})
	if err != nil {
		return fmt.Errorf("token for %s: %w", h.Name, apiclient.Err(err))
	}
	req := &controlpb.JoinRequest{Token: token.Text(), Managers: []string{l.clusterAddr(l.Hosts[0])}}
	if role == profilepb.Role_ROLE_MANAGER {
		req.Advertise = l.clusterAddr(h)
	}
	if _, err := node.Join(ctx, req); err != nil {
		return fmt.Errorf("join %s: %w", h.Name, apiclient.Err(err))
	}
	return nil
}

// AwaitReady waits until want nodes are Ready and every manager is reachable.
func (l *Lab) AwaitReady(ctx context.Context, want int) error {
	return await(ctx, readyWait, "cluster", func(ctx context.Context) error {
		c, err := l.AnyManager(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
		r, err := c.ListNodes(ctx, &controlpb.ListNodesRequest{})
		if err != nil {
			return apiclient.Err(err)
		}
		ready, away := 0, ""
		for _, n := range r.Nodes {
			switch {
			case n.GetNode().GetState() != schedulerpb.NodeState_NODE_STATE_READY:
				away = n.Name + " " + n.GetNode().GetMessage()
			case n.Role == profilepb.Role_ROLE_MANAGER && !(n.GetManager().GetLeader() || n.GetManager().GetReachable()):
				away = n.Name + " is not reachable as a manager"
			case n.Role == profilepb.Role_ROLE_MANAGER && !n.GetManager().GetVoter():
				away = n.Name + " has no vote yet" // without it the loss of another is the end of the cluster
			default:
				ready++
			}
		}
		if ready < want {
			return fmt.Errorf("%d of %d nodes are ready (%s)", ready, want, away)
		}
		return nil
	})
}

// AnyManager connects to a manager that is unlocked and knows a leader.
func (l *Lab) AnyManager(ctx context.Context) (*apiclient.Client, error) {
	last := error(apierr.NoLeader())
	for _, h := range l.Hosts {
		if h.Role != "manager" {
			continue
		}
		c, err := apiclient.Dial(ctx, l.APISocket(h))
		if err != nil {
			last = err
			continue
		}
		sctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err = c.GetStatus(sctx, &controlpb.GetStatusRequest{})
		cancel()
		if err == nil {
			return c, nil
		}
		c.Close()
		last = errors.Join(apiclient.Err(err))
	}
	return nil, last
}
