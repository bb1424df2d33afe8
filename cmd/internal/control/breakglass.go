package control

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// maxNotice bounds one notice in bytes, maxNotices how many there are of an answer.
const (
	maxNotice  = 512
	maxNotices = 8
)

// BreakGlass implements Access.
func (s *Server) BreakGlass(ctx context.Context, req *controlpb.BreakGlassRequest) (*controlpb.BreakGlassResponse, error) {
	resp := &controlpb.BreakGlassResponse{}
	if most := int64(roles.MaxBreakGlass / time.Second); req.GetSeconds() < 0 || req.GetSeconds() > most {
		return nil, apierr.Invalid("", "break-glass is for at most %d seconds, and not for %d", most, req.GetSeconds())
	}
	err := s.update(ctx, func(tx *raftstore.Tx) error {
		b, err := roles.Break(tx, localRootOf(ctx), req.GetReason(), time.Duration(req.GetSeconds())*time.Second)
		resp.Until, resp.Witnesses = b.GetUntil(), b.GetWitnesses()
		return err
	})
	return resp, err
}

// EndBreakGlass implements Access.
func (s *Server) EndBreakGlass(ctx context.Context, _ *controlpb.EndBreakGlassRequest) (*controlpb.EndBreakGlassResponse, error) {
	err := s.update(ctx, func(tx *raftstore.Tx) error { return roles.EndBreak(tx, localRootOf(ctx)) })
	return &controlpb.EndBreakGlassResponse{}, err
}

// localRootOf is the manager whose local root calls.
func localRootOf(ctx context.Context) string {
	id, _ := authz.FromContext(ctx)
	return id.LocalRootOf
}

// AcknowledgeBreakGlass implements Access.
func (s *Server) AcknowledgeBreakGlass(ctx context.Context, req *controlpb.AcknowledgeBreakGlassRequest) (*controlpb.AcknowledgeBreakGlassResponse, error) {
	id, ok := authz.FromContext(ctx)
	if !ok {
		return nil, apierr.Denied("", "nobody said who calls")
	}
	by, err := roles.FromIdentity(id)
	if err != nil {
		return nil, apierr.Denied("", "%v", err)
	}
	err = s.update(ctx, func(tx *raftstore.Tx) error {
		node := req.GetNode()
		if _, is := pkistore.BreakGlasses.Get(tx, node); !is { // of one that was removed, by its id alone
			n, err := resolveNode(tx, node)
			if err != nil {
				return err
			}
			node = n.GetId()
		}
		return roles.Acknowledge(tx, node, by)
	})
	return &controlpb.AcknowledgeBreakGlassResponse{}, err
}

// ListBreakGlasses implements Access.
func (s *Server) ListBreakGlasses(ctx context.Context, _ *controlpb.ListBreakGlassesRequest) (*controlpb.ListBreakGlassesResponse, error) {
	resp := &controlpb.ListBreakGlassesResponse{}
	return resp, s.view(ctx, func(r *raftstore.ReadTx) error {
		for b := range pkistore.BreakGlasses.All(r) {
			resp.BreakGlasses = append(resp.BreakGlasses, &controlpb.BreakGlassView{
				Principal: roles.Named(r, roles.Principal{Kind: pkipb.Principal_KIND_LOCAL_ROOT, Node: b.GetId()}), NodeId: b.GetId(), Reason: b.GetReason(),
				Since: b.GetSince(), Until: b.GetUntil(), Times: b.GetTimes(), Active: roles.Broken(r, b), Witnesses: b.GetWitnesses()})
		}
		slices.SortFunc(resp.BreakGlasses, func(a, b *controlpb.BreakGlassView) int { return strings.Compare(a.GetPrincipal(), b.GetPrincipal()) })
		return nil
	})
}

// notices are what the caller is to hear with the answer.
func (s *Server) notices(ctx context.Context) metadata.MD {
	id, ok := authz.FromContext(ctx)
	if !ok || id.Person == "" || s.c.Roles == nil {
		return nil
	}
	p, err := roles.FromIdentity(id)
	if err != nil {
		return nil
	}
	var all []string
	if err := s.c.Store.View(func(r *raftstore.ReadTx) error { all = s.c.Roles.Announced(r, p); return nil }); err != nil {
		return nil // the call itself says so
	}
	md := metadata.MD{}
	for _, text := range all[:min(len(all), maxNotices)] {
		md.Append(controlpb.NoticeHeader, headerText(text))
	}
	return md
}

// headerText is what a header of gRPC may have.
func headerText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, oneline.Text(s, maxNotice))
}

// notifying has security-admins hear what nobody acknowledged.
func (s *Server) notifying() (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	unary := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		if md := s.notices(ctx); len(md) > 0 {
			_ = grpc.SetHeader(ctx, md) // fails where the call has ended
		}
		return h(ctx, req)
	}
	stream := func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		if md := s.notices(ss.Context()); len(md) > 0 {
			_ = ss.SetHeader(md)
		}
		return h(srv, ss)
	}
	return unary, stream
}
