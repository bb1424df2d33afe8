package apiclient

import (
	"context"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
)

// InvitePerson makes an invitation: the seed here, the record in the cluster. The
// caller shows Text() once and keeps nothing.
func InvitePerson(ctx context.Context, c controlpb.PeopleClient, req *controlpb.InvitePersonRequest) (pki.Invitation, *controlpb.InvitePersonResponse, error) {
	i := pki.NewInvitation()
	req.Id, req.PublicKey = i.ID(), i.PublicKey()
	r, err := c.InvitePerson(ctx, req)
	if err != nil {
		return pki.Invitation{}, nil, err
	}
	i, err = i.Bind(r.GetClusterId(), r.GetRootSpkiSha256(), r.GetManagers())
	return i, r, err
}
