package clitest

import (
	"context"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// ListIdentities implements Identities: web holds one, db none.
func (n *Node) ListIdentities(_ context.Context, r *controlpb.ListIdentitiesRequest) (*controlpb.ListIdentitiesResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.manager(); err != nil {
		return nil, err
	}
	at := time.Date(2125, 1, 2, 3, 4, 5, 0, time.UTC).Unix()
	resp := &controlpb.ListIdentitiesResponse{}
	for _, i := range []*controlpb.WorkloadIdentityInfo{
		{ServiceName: "db", Error: "the managers do not\x1b answer"},
		{ServiceName: "web", Serial: "0a", IssuedAt: at - 3600, ExpiresAt: at, Streams: 2, Tokens: 1},
	} {
		if r.GetService() == "" || r.GetService() == i.ServiceName {
			i.Identity, i.TaskId, i.Slot, i.NodeName = "spiffe://"+n.id+"/svc/default/"+i.ServiceName, ident.New(), 1, "manager-1"
			resp.Identities = append(resp.Identities, i)
		}
	}
	if len(resp.Identities) == 0 {
		return nil, apierr.NotFound("see `redoubt service ls`", "no service %q", r.GetService())
	}
	return resp, nil
}
