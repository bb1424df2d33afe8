package port

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/pki"
)

// DialPerson is DialGRPC for a person.
func DialPerson(ctx context.Context, p *pki.Person, opts ...grpc.DialOption) (*pki.GRPCConn, error) {
	if len(p.Managers) == 0 {
		return nil, errors.New("no manager's address is known")
	}
	conn, err := firstOf(ctx, len(p.Managers), func(ctx context.Context, i int, reached func()) (*tls.Conn, error) {
		return pki.DialTLS(pki.OnReached(ctx, reached), p.Managers[i], p.ClientConfig())
	})
	if err != nil {
		return nil, fmt.Errorf("no manager can be reached: %w", err)
	}
	return pki.GRPCOver(conn, opts...)
}
