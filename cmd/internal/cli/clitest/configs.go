package clitest

import (
	"context"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

// CreateConfig implements Control.
func (n *Node) CreateConfig(_ context.Context, r *controlpb.CreateConfigRequest) (*controlpb.CreateConfigResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.manager(); err != nil {
		return nil, err
	}
	if _, c := n.config(r.GetSpec().GetName()); c != nil {
		return nil, apierr.Exists("choose another name", "a config called %q exists", r.GetSpec().GetName())
	}
	first := &secretspb.VersionFacts{Number: 1, Id: ident.New(), CreatedAt: 1, Size: uint64(len(r.GetSpec().GetData()))}
	c := &secretspb.Config{Current: 1, Versions: []*secretspb.VersionFacts{first}, Meta: &raftstorepb.Meta{Version: 1, CreatedAt: 1}, Id: ident.New(), Spec: r.GetSpec()}
	n.configs = append(n.configs, c)
	return &controlpb.CreateConfigResponse{Id: c.GetId()}, nil
}

func (n *Node) config(ref string) (int, *secretspb.Config) {
	for i, c := range n.configs {
		if c.GetId() == ref || c.GetSpec().GetName() == ref {
			return i, c
		}
	}
	return 0, nil
}

// GetConfigs implements Control.
func (n *Node) GetConfigs(_ context.Context, r *controlpb.GetConfigsRequest) (*controlpb.GetConfigsResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := &controlpb.GetConfigsResponse{}
	for _, ref := range r.GetConfigs() {
		_, c := n.config(ref)
		if c == nil {
			return nil, noConfig(ref)
		}
		out.Configs = append(out.Configs, c)
	}
	return out, n.manager()
}

func noConfig(ref string) error {
	return apierr.NotFound("list them with `redoubt config ls`", "no config %q", ref)
}

// StreamConfigs implements Control.
func (n *Node) StreamConfigs(_ *controlpb.StreamConfigsRequest, s grpc.ServerStreamingServer[controlpb.StreamConfigsResponse]) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	page := &controlpb.StreamConfigsResponse{}
	for _, c := range n.configs {
		page.Configs = append(page.Configs, &controlpb.ConfigView{Id: c.GetId(), Name: c.GetSpec().GetName(), Labels: c.GetSpec().GetLabels(),
			CreatedAt: c.GetMeta().GetCreatedAt(), Size: uint64(len(c.GetSpec().GetData())), Version: c.GetMeta().GetVersion(), Current: c.GetCurrent(), CurrentAt: 1})
	}
	return onePage(s)(page, n.manager())
}

// RemoveConfig implements Control.
func (n *Node) RemoveConfig(_ context.Context, r *controlpb.RemoveConfigRequest) (*controlpb.RemoveConfigResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i, c := n.config(r.GetConfig())
	if c == nil {
		return nil, noConfig(r.GetConfig())
	}
	n.configs = append(n.configs[:i], n.configs[i+1:]...)
	return &controlpb.RemoveConfigResponse{Id: c.GetId()}, nil
}
