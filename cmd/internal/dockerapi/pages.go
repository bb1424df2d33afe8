package dockerapi

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
)

// pages visits what a listing of the operator API streams, page by page, as long as visit
// says so. No more than one page is in memory.
func pages[Req, Page, T any](ctx context.Context, open func(context.Context, *Req, ...grpc.CallOption) (grpc.ServerStreamingClient[Page], error),
	req *Req, of func(*Page) []T, visit func(T) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := open(ctx, req)
	if err != nil {
		return err
	}
	for {
		page, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, v := range of(page) {
			if !visit(v) {
				return nil
			}
		}
	}
}
