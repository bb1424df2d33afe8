package clitest

import (
	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// The streamed listings are the plain ones in one page.

// StreamNodes implements Control.
func (n *Node) StreamNodes(r *controlpb.ListNodesRequest, s grpc.ServerStreamingServer[controlpb.ListNodesResponse]) error {
	return onePage(s)(n.ListNodes(s.Context(), r))
}

// StreamServices implements Control.
func (n *Node) StreamServices(r *controlpb.ListServicesRequest, s grpc.ServerStreamingServer[controlpb.ListServicesResponse]) error {
	return onePage(s)(n.ListServices(s.Context(), r))
}

// StreamTasks implements Control.
func (n *Node) StreamTasks(r *controlpb.ListTasksRequest, s grpc.ServerStreamingServer[controlpb.ListTasksResponse]) error {
	return onePage(s)(n.ListTasks(s.Context(), r))
}

func onePage[T any](s grpc.ServerStreamingServer[T]) func(*T, error) error {
	return func(page *T, err error) error {
		if err != nil {
			return err
		}
		return s.Send(page)
	}
}
