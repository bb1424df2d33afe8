package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/lab"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// trust is what a node does of its own about roots and certificates, as agents do,
// but for writing it down.
type trust struct {
	roots   chan *pkipb.Roots // said of them last; capacity 1
	issuer  chan []byte       // whose certificate is wanted; capacity 1
	changed chan struct{}     // the roots are others; capacity 1
}

func newTrust() trust {
	return trust{make(chan *pkipb.Roots, 1), make(chan []byte, 1), make(chan struct{}, 1)}
}

func latest[T any](ch chan T, v T) {
	select {
	case <-ch:
	default:
	}
	select {
	case ch <- v:
	default:
	}
}

// hear takes what a manager says.
func (t trust) hear(m *schedulerpb.Membership) {
	if len(m.GetRoots().GetRoots()) > 0 {
		latest(t.roots, m.GetRoots())
	}
	if len(m.GetIssuer()) > 0 {
		latest(t.issuer, m.GetIssuer())
	}
}

// follow does what was heard, until ctx ends.
func (n *node) follow(ctx context.Context) error {
	var said *pkipb.Roots
	take := func(r *pkipb.Roots) error {
		changed, err := n.creds.TakeRoots(r, func(*pkipb.Roots) error { return nil })
		if changed {
			latest(n.trust.changed, struct{}{})
		}
		return err
	}
	r := &pki.Renewer{Credentials: n.creds, Roots: take, Logger: slog.New(slog.DiscardHandler),
		Persist: func(context.Context, pki.Renewed) error { return nil },
		Call: func(ctx context.Context, req *pkipb.RenewRequest) (*pkipb.RenewResponse, error) {
			cc, err := port.DialGRPC(pki.DialFrom(ctx, n.from), n.creds, n.fleet.managers)
			if err != nil {
				return nil, err
			}
			defer cc.Close()
			return pkipb.NewRenewClient(cc).Renew(ctx, req)
		}}
	for {
		select {
		case said = <-n.trust.roots:
			_ = take(said) // what it does not believe leaves it as it was
		case want := <-n.trust.issuer:
			for pause := minPause; !bytes.Equal(n.creds.IssuerHash(), want); pause = min(2*pause, maxPause) {
				if r.Now(ctx, want) == nil {
					break
				}
				select {
				case <-time.After(pause):
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			if said != nil {
				_ = take(said) // the root of before may go now
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// rotate replaces the root and prints how long it took, by the managers' word and
// until no node trusted the one of before.
func rotate(ctx context.Context, l *lab.Lab, c *apiclient.Client, f *fleet, managers int) error {
	before, err := measure(l)
	if err != nil {
		return err
	}
	began := time.Now()
	if _, err := c.RotateCA(ctx, &controlpb.RotateCARequest{Root: true}); err != nil {
		return apiclient.Err(err)
	}
	var last *pkipb.RotationResult
	var root []byte
	every := 20*time.Millisecond + time.Duration(len(f.nodes))*500*time.Microsecond // asking costs the managers
	if err := await(ctx, every, func() (bool, error) {
		resp, err := c.InspectCA(ctx, &controlpb.InspectCARequest{})
		if err != nil || resp.GetRotation() != nil || resp.GetLast() == nil {
			return false, err
		}
		sum := sha256.Sum256(resp.GetAuthorities()[0].GetCertificate())
		last, root = resp.GetLast(), sum[:]
		return true, nil
	}); err != nil {
		return fmt.Errorf("the root's replacement does not end: %w", err)
	}
	behind := func() (n int) {
		for _, node := range f.nodes {
			if trusts := node.creds.RootHashes(); len(trusts) != 1 || !slices.Equal(trusts[0], root) {
				n++
			}
		}
		return n
	}
	if err := await(ctx, 5*time.Millisecond, func() (bool, error) { return behind() == 0, nil }); err != nil {
		return fmt.Errorf("%d nodes trust another root: %w", behind(), err)
	}
	took := time.Since(began)
	after, err := measure(l)
	if err != nil {
		return err
	}
	fmt.Printf("nodes=%d managers=%d: the root replaced in %.2fs, no node trusts the one of before after %.2fs; managers' CPU %.2fs\n",
		len(f.nodes), managers, time.Duration(last.GetEndedAt()-last.GetBeganAt()).Seconds(), took.Seconds(), (after.cpu - before.cpu).Seconds())
	return nil
}
