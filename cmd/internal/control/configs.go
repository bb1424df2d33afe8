package control

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	secretspec "github.com/redoubt-cluster/redoubt/secrets/spec"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

// CreateConfig validates and stores.
func (s *Server) CreateConfig(ctx context.Context, req *controlpb.CreateConfigRequest) (*controlpb.CreateConfigResponse, error) {
	if err := secretspec.CheckConfig(req.GetSpec()); err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	id, err := secretstore.CreateConfig(ctx, s.c.Store, req.GetSpec())
	if err != nil {
		return nil, err
	}
	return &controlpb.CreateConfigResponse{Id: id}, nil
}

// GetConfigs returns the named ones, in the order of their names in req, each with
// the data of its current version.
func (s *Server) GetConfigs(ctx context.Context, req *controlpb.GetConfigsRequest) (*controlpb.GetConfigsResponse, error) {
	if n := len(req.GetConfigs()); n == 0 || n > maxConfigs {
		return nil, apierr.Invalid("", "%d configs are asked for: name 1 to %d", n, maxConfigs)
	}
	resp := &controlpb.GetConfigsResponse{Configs: make([]*secretspb.Config, 0, len(req.GetConfigs()))}
	err := s.view(ctx, func(r *raftstore.ReadTx) error {
		for _, ref := range req.GetConfigs() {
			c, err := secretstore.ResolveConfig(r, ref)
			if err != nil {
				return err
			}
			resp.Configs = append(resp.Configs, whole(r, c))
		}
		return nil
	})
	return resp, err
}

// StreamConfigs lists all by name, without their data.
func (s *Server) StreamConfigs(_ *controlpb.StreamConfigsRequest, stream controlpb.Control_StreamConfigsServer) error {
	p := &pages[*controlpb.ConfigView]{send: func(page []*controlpb.ConfigView) error {
		return stream.Send(&controlpb.StreamConfigsResponse{Configs: page})
	}}
	return p.end(s.view(stream.Context(), func(r *raftstore.ReadTx) error {
		all := slices.SortedFunc(secretstore.Configs.All(r), func(a, b *secretspb.Config) int {
			return strings.Compare(a.GetSpec().GetName(), b.GetSpec().GetName())
		})
		for _, c := range all {
			if err := p.add(configView(r, c)); err != nil {
				return err
			}
		}
		return nil
	}))
}

// whole is a config with its versions, and the data of the current one.
func whole(r raftstore.Reader, c *secretspb.Config) *secretspb.Config {
	out := proto.CloneOf(c)
	out.Versions, out.Current = secretstore.VersionsOf(c)
	_, out.Spec.Data, _ = secretstore.ConfigVersionOf(r, c, 0)
	return out
}

func configView(r raftstore.Reader, c *secretspb.Config) *controlpb.ConfigView {
	v := &controlpb.ConfigView{Id: c.GetId(), Name: c.GetSpec().GetName(), Labels: c.GetSpec().GetLabels(),
		CreatedAt: c.GetMeta().GetCreatedAt(), Version: c.GetMeta().GetVersion()}
	f, _, _ := secretstore.ConfigVersionOf(r, c, 0)
	v.Size, v.Current, v.CurrentAt = f.GetSize(), f.GetNumber(), f.GetCreatedAt()
	return v
}

// RemoveConfig removes one config.
func (s *Server) RemoveConfig(ctx context.Context, req *controlpb.RemoveConfigRequest) (*controlpb.RemoveConfigResponse, error) {
	resp := &controlpb.RemoveConfigResponse{}
	return resp, s.update(ctx, func(tx *raftstore.Tx) (err error) {
		resp.Id, err = schedstore.RemoveConfig(tx, req.GetConfig(), req.GetVersion())
		return err
	})
}
