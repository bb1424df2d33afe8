package control

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// Events streams events from req.Since on: up to req.Until, or for ever.
func (s *Server) Events(req *controlpb.EventsRequest, stream controlpb.Control_EventsServer) error {
	if req.GetUntil() != 0 && req.GetUntil() < req.GetSince() {
		return apierr.Invalid("exchange them", "the end of the time asked for lies before its beginning")
	}
	ctx := stream.Context()
	if req.GetUntil() != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, time.Unix(0, req.GetUntil()))
		defer cancel()
	}
	cursor := s.c.Events.Now()
	if req.GetSince() != 0 {
		cursor = s.c.Events.Since(req.GetSince())
	}
	// Headers now: the caller knows that nothing from here on escapes it.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		// With a deadline that is over, what there is is still read.
		found, next, err := s.c.Events.Read(ctx, cursor, ctx.Err() == nil)
		if errors.Is(err, context.DeadlineExceeded) && stream.Context().Err() == nil {
			continue // once more, without waiting
		}
		if err != nil {
			return err
		}
		if req.GetUntil() != 0 {
			found = slices.DeleteFunc(found, func(e *controlpb.Event) bool { return e.GetAt() > req.GetUntil() })
			if len(found) == 0 && ctx.Err() != nil {
				return nil
			}
		}
		if err := stream.Send(&controlpb.EventsResponse{Events: found}); err != nil {
			return err
		}
		cursor = next
	}
}
