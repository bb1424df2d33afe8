package keydclient

import (
	"context"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
)

// OpenAndSeal seals keys of secrets to the rund of one node.
func (c *Client) OpenAndSeal(ctx context.Context, req *keydpb.OpenAndSealRequest) (*keydpb.OpenAndSealResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_OpenAndSeal{OpenAndSeal: req}}, (*keydpb.Response).GetOpenAndSeal)
}

// RewrapSecrets seals keys of secrets to the secrets master in force.
func (c *Client) RewrapSecrets(ctx context.Context, keys []*keydpb.SecretKey) (*keydpb.RewrapSecretsResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_RewrapSecrets{RewrapSecrets: &keydpb.RewrapSecretsRequest{Keys: keys}}}, (*keydpb.Response).GetRewrapSecrets)
}

// DropMasters forgets the secrets masters before that epoch, which is the one in
// force.
func (c *Client) DropMasters(ctx context.Context, epoch uint64) error {
	_, err := do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_DropMasters{DropMasters: &keydpb.DropMastersRequest{Epoch: epoch}}}, (*keydpb.Response).GetDropMasters)
	return err
}
