package authority

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// nodes are all that were not removed, by name.
func (s *Server) nodes(r raftstore.Reader, c *pkipb.Cluster) (out []*controlpb.CANode) {
	sessions := s.sessions()
	roots := pki.HashesOf(c.GetRoots())
	for n := range pkistore.Nodes.All(r) {
		if n.GetDenied() {
			continue
		}
		said, connected := sessions[n.GetId()]
		v := &controlpb.CANode{Id: n.GetId(), Name: n.GetName(), Role: n.GetRole(), Connected: connected, Current: !pki.NeedsReissue(c, n),
			Trusts: true, Issuer: n.GetLeafIssuer(), LeafNotAfter: n.GetLeafNotAfter()}
		for _, root := range roots {
			v.Trusts = v.Trusts && trusts(said, root)
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b *controlpb.CANode) int { return strings.Compare(a.GetName()+a.GetId(), b.GetName()+b.GetId()) })
	return out
}

// WatchCA implements controlpb.AuthorityServer.
func (s *Server) WatchCA(_ *controlpb.WatchCARequest, stream controlpb.Authority_WatchCAServer) error {
	ctx := stream.Context()
	if err := s.c.Store.Barrier(ctx); err != nil {
		return err
	}
	told := map[string]*controlpb.CANode{}
	var last *controlpb.WatchCAResponse
	for {
		msg, err := s.progress(told)
		if err != nil {
			return err
		}
		if last == nil || len(msg.GetNodes()) > 0 || msg.GetPhase() != last.GetPhase() || msg.GetDone() {
			if err := stream.Send(msg); err != nil || msg.GetDone() {
				return err
			}
			last = msg
		}
		// What nodes trust is in no table: it is looked at now and then.
		if err := pause(ctx, watchPause); err != nil {
			return context.Cause(ctx)
		}
	}
}

// progress is what changed since what was told.
func (s *Server) progress(told map[string]*controlpb.CANode) (*controlpb.WatchCAResponse, error) {
	msg := &controlpb.WatchCAResponse{}
	err := s.c.Store.View(func(r *raftstore.ReadTx) error {
		c, err := pkistore.GetCluster(r)
		if err != nil {
			return err
		}
		msg.Phase, msg.Last = c.GetRotation().GetPhase(), c.GetLastRotation()
		left := false
		for _, v := range s.nodes(r, c) {
			ok := v.GetCurrent()
			if msg.Phase == pkipb.Rotation_PHASE_DISTRIBUTE {
				ok = v.GetTrusts()
			}
			if v.GetConnected() {
				msg.Connected++
				if ok {
					msg.Ready++
				}
			}
			if proto.Equal(told[v.GetId()], v) {
				continue
			}
			if len(msg.Nodes) == maxWatchNodes {
				left = true
				continue
			}
			told[v.GetId()] = v
			msg.Nodes = append(msg.Nodes, v)
		}
		msg.Done = c.GetRotation() == nil && msg.Ready == msg.Connected && !left
		return nil
	})
	return msg, err
}

// InspectCA implements controlpb.AuthorityServer.
func (s *Server) InspectCA(ctx context.Context, _ *controlpb.InspectCARequest) (*controlpb.InspectCAResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := s.c.Store.Barrier(ctx); err != nil {
		return nil, err
	}
	resp := &controlpb.InspectCAResponse{}
	var err error
	if resp.OrderKey, err = s.c.OrderKey(ctx); err != nil {
		return nil, err
	}
	err = s.c.Store.View(func(r *raftstore.ReadTx) error {
		c, err := pkistore.GetCluster(r)
		if err != nil {
			return err
		}
		resp.Rotation, resp.Last, resp.KeysetEpoch, resp.WorkerLeafSeconds = c.GetRotation(), c.GetLastRotation(), pki.KeysetEpoch(c), c.GetWorkerLeafSeconds()
		if at, err := replaceAt(c); err == nil {
			resp.NextRotation = at.Unix()
		}
		resp.Nodes, resp.Unjournalled = s.nodes(r, c), c.GetUnjournalled()
		resp.Authorities, resp.External, resp.ClusterId = views(c, resp.Nodes), c.GetExternal(), c.GetClusterId()
		return nil
	})
	return resp, err
}

// views are the cluster's CAs, and how many nodes' certificates each stands for.
func views(c *pkipb.Cluster, nodes []*controlpb.CANode) (out []*controlpb.CAView) {
	add := func(kind controlpb.CAView_Kind, ders ...[]byte) {
		for _, der := range ders {
			out = append(out, &controlpb.CAView{Kind: kind, Certificate: der})
		}
	}
	for i, root := range c.GetRoots() {
		kind := controlpb.CAView_KIND_ROOT
		if i > 0 {
			kind = controlpb.CAView_KIND_NEXT_ROOT
			if pki.Reissues(c.GetRotation()) {
				kind = controlpb.CAView_KIND_FORMER_ROOT
			}
		}
		add(kind, root)
	}
	add(controlpb.CAView_KIND_FORMER_ROOT, c.GetFormerRoots()...)
	add(controlpb.CAView_KIND_CROSS, c.GetCross()...)
	add(controlpb.CAView_KIND_ISSUER, c.GetIssuers()...)
	if c.GetExternal() != nil {
		add(controlpb.CAView_KIND_EXTERNAL, c.GetExternal().GetIssuer())
	}
	add(controlpb.CAView_KIND_FORMER_ISSUER, c.GetFormerIssuers()...)
	byIssuer := map[string]uint32{}
	for _, n := range nodes {
		byIssuer[string(n.GetIssuer())]++
	}
	issuers := map[*x509.Certificate]uint32{}
	for _, der := range slices.Concat(c.GetIssuers(), c.GetFormerIssuers(), [][]byte{c.GetExternal().GetIssuer()}) {
		if cert, err := x509.ParseCertificate(der); err == nil {
			issuers[cert] = byIssuer[hash(der)]
		}
	}
	for _, v := range out {
		cert, err := x509.ParseCertificate(v.GetCertificate())
		if err != nil {
			continue
		}
		switch v.GetKind() {
		case controlpb.CAView_KIND_CROSS:
		case controlpb.CAView_KIND_ISSUER, controlpb.CAView_KIND_FORMER_ISSUER, controlpb.CAView_KIND_EXTERNAL:
			v.Nodes = byIssuer[hash(v.GetCertificate())]
		default:
			for issuer, n := range issuers {
				if bytes.Equal(issuer.RawIssuer, cert.RawSubject) && issuer.CheckSignatureFrom(cert) == nil {
					v.Nodes += n
				}
			}
		}
	}
	return out
}

func hash(der []byte) string {
	sum := sha256.Sum256(der)
	return string(sum[:])
}
