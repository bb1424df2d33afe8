package apiclient

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// Listings of everything come as streams, so that there may be any number of
// objects. What was named is few and is asked for in one call.

// ListServices lists the named services, or all.
func (c *Client) ListServices(ctx context.Context, req *controlpb.ListServicesRequest, opts ...grpc.CallOption) (*controlpb.ListServicesResponse, error) {
	if len(req.GetServices()) > 0 {
		return c.ControlClient.ListServices(ctx, req, opts...)
	}
	out := &controlpb.ListServicesResponse{}
	return out, gather(ctx, req, c.StreamServices, opts, func(page *controlpb.ListServicesResponse) {
		out.Services = append(out.Services, page.GetServices()...)
	})
}

// ListTasks lists the tasks of the named services, or of all, and of the named
// node, or of all.
func (c *Client) ListTasks(ctx context.Context, req *controlpb.ListTasksRequest, opts ...grpc.CallOption) (*controlpb.ListTasksResponse, error) {
	out := &controlpb.ListTasksResponse{}
	return out, gather(ctx, req, c.StreamTasks, opts, func(page *controlpb.ListTasksResponse) {
		out.Tasks = append(out.Tasks, page.GetTasks()...)
	})
}

// ListNodes lists the named nodes, or all.
func (c *Client) ListNodes(ctx context.Context, req *controlpb.ListNodesRequest, opts ...grpc.CallOption) (*controlpb.ListNodesResponse, error) {
	if len(req.GetNodes()) > 0 {
		return c.ControlClient.ListNodes(ctx, req, opts...)
	}
	out := &controlpb.ListNodesResponse{}
	return out, gather(ctx, req, c.StreamNodes, opts, func(page *controlpb.ListNodesResponse) {
		out.Self = page.GetSelf()
		out.Nodes = append(out.Nodes, page.GetNodes()...)
	})
}

// ListConfigs lists all configs, without their data.
func (c *Client) ListConfigs(ctx context.Context, opts ...grpc.CallOption) (out []*controlpb.ConfigView, err error) {
	err = gather(ctx, &controlpb.StreamConfigsRequest{}, c.StreamConfigs, opts, func(page *controlpb.StreamConfigsResponse) {
		out = append(out, page.GetConfigs()...)
	})
	return out, err
}

// gather takes all pages.
func gather[Req, Page any](ctx context.Context, req *Req,
	open func(context.Context, *Req, ...grpc.CallOption) (grpc.ServerStreamingClient[Page], error), opts []grpc.CallOption, take func(*Page)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := open(ctx, req, opts...)
	for err == nil {
		var page *Page
		if page, err = stream.Recv(); err == nil {
			take(page)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// ListNetworks lists the named networks, or all.
func (c *Client) ListNetworks(ctx context.Context, names []string, opts ...grpc.CallOption) (out []*controlpb.NetworkDetail, err error) {
	err = gather(ctx, &controlpb.StreamNetworksRequest{Networks: names}, c.StreamNetworks, opts, func(page *controlpb.StreamNetworksResponse) {
		out = append(out, page.GetNetworks()...)
	})
	return out, err
}

// ListPolicies lists the named policies, or all.
func (c *Client) ListPolicies(ctx context.Context, names []string, opts ...grpc.CallOption) (out []*controlpb.PolicyDetail, err error) {
	err = gather(ctx, &controlpb.StreamPoliciesRequest{Policies: names}, c.StreamPolicies, opts, func(page *controlpb.StreamPoliciesResponse) {
		out = append(out, page.GetPolicies()...)
	})
	return out, err
}

// ListVolumes lists the named volumes, or all.
func (c *Client) ListVolumes(ctx context.Context, names []string, opts ...grpc.CallOption) (out []*controlpb.VolumeDetail, err error) {
	err = gather(ctx, &controlpb.StreamVolumesRequest{Volumes: names}, c.StreamVolumes, opts, func(page *controlpb.StreamVolumesResponse) {
		out = append(out, page.GetVolumes()...)
	})
	return out, err
}
