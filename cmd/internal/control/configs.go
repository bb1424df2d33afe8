package control

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
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
	if errors.Is(err, secretstore.ErrFull) {
		return nil, apierr.State("`redoubt config ls` shows their sizes", "%v", err)
	}
	if err != nil {
		return nil, err
	}
	return &controlpb.CreateConfigResponse{Id: id}, nil
}

// GetConfigs returns the named ones, in the order of their names in req.
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
			resp.Configs = append(resp.Configs, c)
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
			if err := p.add(configView(c)); err != nil {
				return err
			}
		}
		return nil
	}))
}

func configView(c *secretspb.Config) *controlpb.ConfigView {
	return &controlpb.ConfigView{Id: c.GetId(), Name: c.GetSpec().GetName(), Labels: c.GetSpec().GetLabels(),
		CreatedAt: c.GetMeta().GetCreatedAt(), Size: uint64(len(c.GetSpec().GetData())), Version: c.GetMeta().GetVersion()}
}

// RemoveConfig removes one config.
func (s *Server) RemoveConfig(ctx context.Context, req *controlpb.RemoveConfigRequest) (*controlpb.RemoveConfigResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	id, err := secretstore.RemoveConfig(ctx, s.c.Store, req.GetConfig(), req.GetVersion())
	if err != nil {
		return nil, err
	}
	return &controlpb.RemoveConfigResponse{Id: id}, nil
}
