package clitest

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// CreateToken implements Control.
func (n *Node) CreateToken(_ context.Context, r *controlpb.CreateTokenRequest) (*controlpb.CreateTokenResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(r.PublicKey) != 32 || !ident.Valid(r.Id) {
		return nil, apierr.Invalid("", "malformed token")
	}
	rec := &profilepb.TokenRecord{Id: r.Id, ClusterId: n.cluster, Role: r.Role, MaxUses: max(1, r.MaxUses), ExpiresAt: time.Now().Add(10 * time.Minute).Unix()}
	if r.LongLived {
		rec.MaxUses, rec.ExpiresAt = 0, 0
	}
	v := &controlpb.TokenView{Record: rec}
	n.tokens = append(n.tokens, v)
	pin := make([]byte, 32)
	rand.Read(pin)
	return &controlpb.CreateTokenResponse{Token: v, RootSpkiSha256: pin, ClusterId: n.cluster, Managers: []string{"192.0.2.10:2377"}}, n.manager()
}

// ListTokens implements Control.
func (n *Node) ListTokens(context.Context, *controlpb.ListTokensRequest) (*controlpb.ListTokensResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &controlpb.ListTokensResponse{Tokens: n.tokens}, n.manager()
}

// RevokeToken implements Control.
func (n *Node) RevokeToken(_ context.Context, r *controlpb.RevokeTokenRequest) (*controlpb.RevokeTokenResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, t := range n.tokens {
		if t.Record.Id == r.Id {
			t.Revoked = true
			return &controlpb.RevokeTokenResponse{Id: r.Id}, nil
		}
	}
	return nil, apierr.NotFound("see `redoubt join-token ls`", "no token %q", r.Id)
}

// ListSlots implements Control.
func (n *Node) ListSlots(context.Context, *controlpb.ListSlotsRequest) (*controlpb.ListSlotsResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &controlpb.ListSlotsResponse{Slots: n.slots, Managers: n.acks(n.slots.Epoch)}, n.manager()
}

func (n *Node) acks(epoch uint64) []*controlpb.SlotAck {
	a := []*controlpb.SlotAck{{NodeId: n.id, Name: "manager-1", Epoch: epoch, Reachable: true}}
	if n.away || n.dying {
		a = append(a, &controlpb.SlotAck{NodeId: ident.New(), Name: "manager-2", Epoch: 1, Reachable: n.dying && n.slots.Epoch == 1})
	}
	return a
}

// RotateSlot implements Control.
func (n *Node) RotateSlot(r *controlpb.RotateSlotRequest, s grpc.ServerStreamingServer[controlpb.RotateSlotResponse]) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.manager(); err != nil {
		return err
	}
	n.slots = &keydpb.SlotSet{Epoch: n.slots.Epoch + 1, Slots: []*keydpb.Slot{r.Slot}}
	if n.dying {
		if err := s.Send(&controlpb.RotateSlotResponse{Epoch: n.slots.Epoch, Managers: n.acks(n.slots.Epoch)}); err != nil {
			return err
		}
		<-s.Context().Done()
		return s.Context().Err()
	}
	return errors.Join(
		s.Send(&controlpb.RotateSlotResponse{Epoch: n.slots.Epoch, Managers: n.acks(n.slots.Epoch - 1)}),
		s.Send(&controlpb.RotateSlotResponse{Epoch: n.slots.Epoch, Managers: n.acks(n.slots.Epoch), Done: true}))
}
