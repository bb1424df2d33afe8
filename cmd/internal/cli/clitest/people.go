package clitest

import (
	"context"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// InvitePerson implements People.
func (n *Node) InvitePerson(_ context.Context, r *controlpb.InvitePersonRequest) (*controlpb.InvitePersonResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.manager(); err != nil {
		return nil, err
	}
	end := time.Now().Add(time.Hour).Unix()
	i := slices.IndexFunc(n.people, func(p *controlpb.PersonView) bool { return p.Name == r.Name })
	if i >= 0 && n.people[i].Denied {
		return nil, apierr.State("`redoubt person rm "+r.Name+"` first if that is meant", "person %s was revoked", r.Name)
	}
	if i < 0 {
		n.people = append(n.people, &controlpb.PersonView{Name: r.Name, InvitationEnds: end, LifeSeconds: uint32(r.LifeSeconds), InvitedBy: "local root of node " + n.id})
	}
	return &controlpb.InvitePersonResponse{ClusterId: n.cluster, RootSpkiSha256: make([]byte, 32), Managers: []string{"127.0.0.1:9"},
		Record: &profilepb.InvitationRecord{Id: r.Id, Person: r.Name, ExpiresAt: end}, Replaces: i >= 0}, nil
}

// ListPeople implements People.
func (n *Node) ListPeople(context.Context, *controlpb.ListPeopleRequest) (*controlpb.ListPeopleResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &controlpb.ListPeopleResponse{People: n.people}, n.manager()
}

// RevokePerson implements People.
func (n *Node) RevokePerson(_ context.Context, r *controlpb.RevokePersonRequest) (*controlpb.RevokePersonResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.people {
		if p.Name == r.Name {
			p.Denied, p.InvitationEnds = true, 0
			return &controlpb.RevokePersonResponse{Name: r.Name}, nil
		}
	}
	return nil, apierr.NotFound("see `redoubt person ls`", "no person %q", r.Name)
}

// RemovePerson implements People.
func (n *Node) RemovePerson(_ context.Context, r *controlpb.RemovePersonRequest) (*controlpb.RemovePersonResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.people = slices.DeleteFunc(n.people, func(p *controlpb.PersonView) bool { return p.Name == r.Name })
	return &controlpb.RemovePersonResponse{Name: r.Name}, nil
}

// WhoAmI implements People: whoever comes by the socket is root.
func (n *Node) WhoAmI(context.Context, *controlpb.WhoAmIRequest) (*controlpb.WhoAmIResponse, error) {
	return &controlpb.WhoAmIResponse{Id: "spiffe://" + n.cluster + "/node/" + n.id, ClusterId: n.cluster, Description: "local root of node " + n.id}, n.manager()
}
