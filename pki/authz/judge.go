package authz

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// maxActs bounds what one request may do: so many are looked at in less than a
// tenth of a second.
const maxActs = 4096

// Judged returns the context for the handler, or a refusal unless the caller in ctx,
// whom the method admits, may do what the request does. The interceptors call it; who
// answers a call without them does.
func (a *Authorizer) Judged(ctx context.Context, method string, request any) (context.Context, error) {
	acts, err := boundedActs(method, request)
	if err != nil || len(acts) == 0 {
		return ctx, err
	}
	return a.judge(ctx, method, request, acts)
}

// boundedActs are what a request does; none: no policy is asked.
func boundedActs(method string, request any) ([]Act, error) {
	r, err := ruleOf(method)
	if err != nil {
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	if len(r.verbs) == 0 {
		return nil, nil
	}
	m, ok := request.(proto.Message)
	if !ok {
		return nil, status.Errorf(codes.PermissionDenied, "%s: a %T cannot be judged", method, request)
	}
	acts, err := r.acts(m)
	switch {
	case err != nil:
		return nil, status.Errorf(codes.PermissionDenied, "%s: %v", method, err)
	case len(acts) > maxActs:
		return nil, status.Errorf(codes.InvalidArgument, "the request names %d things: at most %d are allowed", len(acts), maxActs)
	}
	return acts, nil
}

func (a *Authorizer) judge(ctx context.Context, method string, request any, acts []Act) (context.Context, error) {
	id, ok := FromContext(ctx)
	if !ok || a.cfg.Judge == nil {
		return nil, status.Errorf(codes.PermissionDenied, "%s: nobody can say here whether it is permitted", method)
	}
	err := a.cfg.Judge.Judge(ctx, id, acts)
	if err == nil {
		ctx, err = a.cfg.Judge.Consent(ctx, id, method, request.(proto.Message), acts)
	}
	if err != nil {
		reason := status.Convert(err).Message()
		a.refused.Warn(hostOf(id.Source), "refused a call", "method", method, "caller", id.String(), "reason", reason)
		a.cfg.Refused(id, method, reason)
		return nil, err
	}
	return ctx, nil
}

// checked is the stream as its handler gets it: an operator's request is judged when
// it has come. call is nil for a caller whose rights no record can change.
func (a *Authorizer) checked(ss grpc.ServerStream, ctx context.Context, method string, call *liveCall) *checkedStream {
	out := &checkedStream{ServerStream: ss, ctx: ctx}
	if a.cfg.Carries {
		return out
	}
	out.judge = func(request any) (context.Context, error) {
		acts, err := boundedActs(method, request)
		if err != nil || len(acts) == 0 {
			return ctx, err
		}
		if id, ok := FromContext(ctx); ok && call != nil {
			// Before it is judged: a change that commits in between is then seen by
			// one of the two.
			call.did(id, acts)
		}
		return a.judge(ctx, method, request, acts)
	}
	return out
}
