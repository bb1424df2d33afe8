package rund

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
)

// redial makes the connection to containerd be tried often: its socket is on
// this machine, and tasks wait for it.
func redial() grpc.DialOption {
	return grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: redialMin, Multiplier: 1.5, Jitter: 0.2, MaxDelay: redialMax},
		MinConnectTimeout: redialTimeout,
	})
}

// followRuntime keeps the connection to containerd and tells everybody who
// waits as soon as it answers again.
func (s *Server) followRuntime(ctx context.Context) {
	conn, ok := s.client.Conn().(*grpc.ClientConn)
	if !ok { // workers try again by themselves
		s.log.Error("cannot follow the connection to containerd")
		return
	}
	for {
		state := conn.GetState()
		switch state {
		case connectivity.Idle:
			conn.Connect()
		case connectivity.Ready:
			select {
			case s.answers <- struct{}{}:
			default:
			}
			s.mu.Lock()
			for _, w := range s.workers {
				w.back()
			}
			s.mu.Unlock()
		}
		if !conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}
