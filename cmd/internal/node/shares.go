package node

import (
	"context"
	"crypto"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/profile"
)

// unlocking is what a locked manager answers about shares that are typed on others.
// redoubtd only carries them: they are sealed from keyd to keyd.
type unlocking struct {
	controlpb.UnimplementedUnlockingServer
	n    *Node
	boot *pki.Credentials
	m    *managerState // nil while locked
}

const (
	// askSession bounds asking one manager.
	askSession = 5 * time.Second
	// maxSharesMessage bounds a message about shares: a statement with its chain.
	maxSharesMessage = 32 << 10
)

// Session returns keyd's session key, signed by the boot leaf.
func (u unlocking) Session(ctx context.Context, _ *controlpb.SessionRequest) (*controlpb.SessionResponse, error) {
	if u.m != nil || u.boot == nil {
		return &controlpb.SessionResponse{}, nil
	}
	s, err := u.n.keyd.LockSession(ctx)
	if err != nil {
		return nil, ofKeyd(err)
	}
	id := u.boot.Identity()
	if s.GetNodeId() != id.NodeID || s.GetClusterId() != id.ClusterID {
		return nil, status.Error(codes.FailedPrecondition, "keyd holds the keys of another node")
	}
	cert, err := u.boot.GetCertificate(nil)
	if err != nil {
		return nil, err
	}
	sig, err := profile.SignSession(cert.PrivateKey.(crypto.Signer), id.ClusterID, id.NodeID, s.GetSessionKey())
	if err != nil {
		return nil, err
	}
	return &controlpb.SessionResponse{Statement: &keydpb.SessionStatement{SessionKey: s.GetSessionKey(), Boot: u.boot.Chain(), Signature: sig}}, nil
}

// TakeShare hands a sealed share to keyd.
func (u unlocking) TakeShare(ctx context.Context, req *controlpb.TakeShareRequest) (*controlpb.TakeShareResponse, error) {
	if u.m != nil {
		return &controlpb.TakeShareResponse{Unlocked: true}, nil
	}
	r, err := u.n.keyd.TakeShare(ctx, req.GetSealed())
	if err != nil {
		return nil, ofKeyd(err)
	}
	return &controlpb.TakeShareResponse{Progress: r.GetProgress(), Unlocked: r.GetUnlocked(), Had: r.GetHad()}, nil
}

// ofKeyd is keyd's refusal as another machine is told it: keyd's messages hold no
// secret.
func ofKeyd(err error) error { return status.Error(codes.FailedPrecondition, err.Error()) }

// shares is what this node's own root asks when it types a share.
type shares struct {
	controlpb.UnimplementedSharesServer
	n *Node
}

// AskSessions asks the other managers, all at once.
func (s shares) AskSessions(ctx context.Context, req *controlpb.AskSessionsRequest) (*controlpb.AskSessionsResponse, error) {
	boot, others, err := s.others()
	if err != nil {
		return nil, err
	}
	for _, a := range req.GetAddresses() {
		if !slices.ContainsFunc(others, func(o otherManager) bool { return o.at(a) }) {
			return nil, apierr.NotFound("give the address or name of a manager, or `all`", "this node knows no other manager %q", a)
		}
	}
	if len(req.GetAddresses()) > 0 {
		others = slices.DeleteFunc(others, func(o otherManager) bool { return !slices.ContainsFunc(req.GetAddresses(), o.at) })
	}
	resp := &controlpb.AskSessionsResponse{Managers: make([]*controlpb.LockedManager, len(others))}
	var wg sync.WaitGroup
	for i, o := range others {
		wg.Go(func() {
			out := &controlpb.LockedManager{NodeId: o.ID, Name: o.Name, Address: o.Address}
			resp.Managers[i] = out
			err := unlockingOn(ctx, boot, o, func(ctx context.Context, c controlpb.UnlockingClient) error {
				r, err := c.Session(ctx, &controlpb.SessionRequest{})
				out.Statement, out.Unlocked = r.GetStatement(), err == nil && r.GetStatement() == nil
				return err
			})
			if err != nil {
				out.Message = messageOf(err).Error()
			}
		})
	}
	wg.Wait()
	return resp, nil
}

// SendShare brings one sealed share to the manager that it is sealed to.
func (s shares) SendShare(ctx context.Context, req *controlpb.SendShareRequest) (*controlpb.SendShareResponse, error) {
	boot, others, err := s.others()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(others, func(o otherManager) bool { return o.ID == req.GetShare().GetNodeId() })
	if i < 0 {
		return nil, apierr.NotFound("", "this node knows no other manager %q", req.GetShare().GetNodeId())
	}
	resp := &controlpb.SendShareResponse{}
	err = unlockingOn(ctx, boot, others[i], func(ctx context.Context, c controlpb.UnlockingClient) error {
		r, err := c.TakeShare(ctx, &controlpb.TakeShareRequest{Sealed: req.GetShare().GetSealed()})
		resp.Progress, resp.Unlocked, resp.Had = r.GetProgress(), r.GetUnlocked(), r.GetHad()
		return err
	})
	if err != nil {
		return nil, apierr.Unreachable("", "%v", messageOf(err))
	}
	return resp, nil
}

// others are the managers that this one knew last, and what it shows them.
func (s shares) others() (*pki.Credentials, []otherManager, error) {
	boot, self := s.n.boot.Load(), s.n.who()
	switch {
	case self.NodeID == "":
		return nil, nil, apierr.NoCluster()
	case !self.Manager || boot == nil:
		return nil, nil, apierr.NotManager()
	}
	others, err := s.n.disk.others()
	return boot, others, err
}

// at reports whether an operator may mean that manager.
func (o otherManager) at(address string) bool {
	host, _, err := net.SplitHostPort(o.Address)
	return address == o.Address || err == nil && address == host || strings.EqualFold(address, o.Name) || address == o.ID
}

// unlockingOn calls another manager on the lock protocol: by the boot leaf, as a
// locked one has no records, and by its id, so that nobody else answers for it.
func unlockingOn(ctx context.Context, boot *pki.Credentials, o otherManager, call func(context.Context, controlpb.UnlockingClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, askSession)
	defer cancel()
	conn, err := pki.DialTLS(ctx, o.Address, boot.ClientConfig(pki.ALPNLock, o.ID))
	if err != nil {
		return err
	}
	c, err := pki.GRPCOver(conn, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxSharesMessage)))
	if err != nil {
		return err
	}
	defer c.Close()
	return call(ctx, controlpb.NewUnlockingClient(c))
}
