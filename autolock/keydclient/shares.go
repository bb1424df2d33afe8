package keydclient

import (
	"context"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
)

// LockSession returns the key that shares from other machines are sealed to, and
// whose it is.
func (c *Client) LockSession(ctx context.Context) (*keydpb.LockSessionResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_LockSession{LockSession: &keydpb.LockSessionRequest{}}}, (*keydpb.Response).GetLockSession)
}

// TakeShare gives a locked keyd a share that was typed elsewhere.
func (c *Client) TakeShare(ctx context.Context, sealed []byte) (*keydpb.TakeShareResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_TakeShare{TakeShare: &keydpb.TakeShareRequest{Sealed: sealed}}}, (*keydpb.Response).GetTakeShare)
}

// GiveShare gives keyd a share that was typed here. It works on unlock.sock only,
// as do DropShares and TestSlot.
func (c *Client) GiveShare(ctx context.Context, share []byte, to []*keydpb.SessionStatement) (*keydpb.GiveShareResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_GiveShare{GiveShare: &keydpb.GiveShareRequest{Share: share, To: to}}}, (*keydpb.Response).GetGiveShare)
}

// DropShares makes keyd forget shares, and says how many there were.
func (c *Client) DropShares(ctx context.Context) (uint32, error) {
	resp, err := do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_DropShares{DropShares: &keydpb.DropSharesRequest{}}}, (*keydpb.Response).GetDropShares)
	return resp.GetDropped(), err
}

// TestSlot says which slot a seed opens, or a share is of.
func (c *Client) TestSlot(ctx context.Context, req *keydpb.TestSlotRequest) (*keydpb.TestSlotResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_TestSlot{TestSlot: req}}, (*keydpb.Response).GetTestSlot)
}
