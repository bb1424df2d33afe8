package apiclient

import (
	"context"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
)

// GiveShare gives keyd a share that was typed here, to be sealed to others too.
func (k *Keyd) GiveShare(ctx context.Context, share *autolock.Share, to []*keydpb.SessionStatement) (*keydpb.GiveShareResponse, error) {
	raw := share.Bytes()
	defer clear(raw)
	resp, err := k.call(ctx, &keydpb.Request{Verb: &keydpb.Request_GiveShare{GiveShare: &keydpb.GiveShareRequest{Share: raw, To: to}}})
	return resp.GetGiveShare(), err
}

// DropShares makes keyd forget the shares it has, and says how many there were.
func (k *Keyd) DropShares(ctx context.Context) (uint32, error) {
	resp, err := k.call(ctx, &keydpb.Request{Verb: &keydpb.Request_DropShares{DropShares: &keydpb.DropSharesRequest{}}})
	return resp.GetDropShares().GetDropped(), err
}

// TestSlot says which slot a key opens, or a share is of.
func (k *Keyd) TestSlot(ctx context.Context, key *autolock.OperatorKey, share *autolock.Share) (*keydpb.TestSlotResponse, error) {
	req := &keydpb.TestSlotRequest{}
	if key != nil {
		req.Seed = key.Seed()
		defer clear(req.Seed)
	}
	if share != nil {
		req.Share = share.Bytes()
		defer clear(req.Share)
	}
	resp, err := k.call(ctx, &keydpb.Request{Verb: &keydpb.Request_TestSlot{TestSlot: req}})
	return resp.GetTestSlot(), err
}

// TestOwnSlot says whether this machine opens a slot by itself.
func (k *Keyd) TestOwnSlot(ctx context.Context, slot string) (*keydpb.TestSlotResponse, error) {
	resp, err := k.call(ctx, &keydpb.Request{Verb: &keydpb.Request_TestSlot{TestSlot: &keydpb.TestSlotRequest{Slot: slot}}})
	return resp.GetTestSlot(), err
}

// Status is what keyd says of itself.
func (k *Keyd) Status(ctx context.Context) (*keydpb.StatusResponse, error) {
	resp, err := k.call(ctx, &keydpb.Request{Verb: &keydpb.Request_Status{Status: &keydpb.StatusRequest{}}})
	return resp.GetStatus(), err
}
