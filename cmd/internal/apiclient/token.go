package apiclient

import (
	"context"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
)

// CreateToken makes a join token: the seed here, the record in the cluster. The
// caller shows Text() once and keeps nothing.
func CreateToken(ctx context.Context, c controlpb.ControlClient, req *controlpb.CreateTokenRequest) (pki.Token, *controlpb.CreateTokenResponse, error) {
	t := pki.NewToken()
	req.Id, req.PublicKey = t.ID(), t.PublicKey()
	r, err := c.CreateToken(ctx, req)
	if err != nil {
		return pki.Token{}, nil, err
	}
	t, err = t.Bind(r.ClusterId, r.RootSpkiSha256)
	return t, r, err
}
