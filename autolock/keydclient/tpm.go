package keydclient

import (
	"context"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
)

// DescribeTPM returns what this machine's TPM shows of itself.
func (c *Client) DescribeTPM(ctx context.Context) (*keydpb.DescribeTPMResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_DescribeTpm{DescribeTpm: &keydpb.DescribeTPMRequest{}}}, (*keydpb.Response).GetDescribeTpm)
}

// Attest has this machine's TPM vouch for a request of its node.
func (c *Client) Attest(ctx context.Context, req *keydpb.AttestRequest) (*keydpb.AttestResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_Attest{Attest: req}}, (*keydpb.Response).GetAttest)
}

// SealToTPM keeps a leaf's key where only this machine's TPM opens it.
func (c *Client) SealToTPM(ctx context.Context, key []byte) ([]byte, error) {
	resp, err := do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_SealToTpm{SealToTpm: &keydpb.SealToTPMRequest{Key: key}}}, (*keydpb.Response).GetSealToTpm)
	return resp.GetSealed(), err
}

// OpenByTPM opens what SealToTPM made; the caller wipes the key.
func (c *Client) OpenByTPM(ctx context.Context, sealed []byte) ([]byte, error) {
	resp, err := do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_SealToTpm{SealToTpm: &keydpb.SealToTPMRequest{Sealed: sealed}}}, (*keydpb.Response).GetSealToTpm)
	return resp.GetKey(), err
}

// Challenge makes what only a joiner's TPM opens.
func (c *Client) Challenge(ctx context.Context, req *keydpb.ChallengeRequest) (*keydpb.ChallengeResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_Challenge{Challenge: req}}, (*keydpb.Response).GetChallenge)
}
