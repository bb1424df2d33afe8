package apiclient

import (
	"context"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/secrets/seal"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

// Recipient is what secrets of a cluster are sealed to.
type Recipient struct {
	clusterID string
	key       []byte
	epoch     uint64
}

// Recipient asks this manager's keyd. Nobody stands between: keyd has the socket
// from the supervisor and answers root alone, and redoubtd, which speaks to the
// network, could tell of another key that it can open.
func (k *Keyd) Recipient(ctx context.Context) (*Recipient, error) {
	resp, err := k.call(ctx, &keydpb.Request{Verb: &keydpb.Request_Status{Status: &keydpb.StatusRequest{}}})
	if err != nil {
		return nil, err
	}
	return RecipientOf(resp.GetStatus())
}

// RecipientOf is what a manager's keyd says of it.
func RecipientOf(st *keydpb.StatusResponse) (*Recipient, error) {
	switch {
	case st.GetState() == keydpb.LockState_LOCK_STATE_LOCKED:
		return nil, apierr.Locked()
	case st.GetState() != keydpb.LockState_LOCK_STATE_UNLOCKED:
		return nil, apierr.NotManager()
	case len(st.GetSecretsRecipient()) == 0 || st.GetSecretsEpoch() == 0:
		return nil, apierr.State("upgrade this node", "its keyd knows nothing of secrets")
	}
	return &Recipient{st.GetClusterId(), st.GetSecretsRecipient(), st.GetSecretsEpoch()}, nil
}

// Seal makes a version of the secret of that id. What is in it leaves this process
// sealed, and its key with it.
func (r *Recipient) Seal(secretID, kind string, plain []byte) (*controlpb.NewVersion, error) {
	return r.SealVersion(secretID, ident.New(), kind, plain)
}

// SealVersion is Seal of a version whose id the caller chose.
func (r *Recipient) SealVersion(secretID, versionID, kind string, plain []byte) (*controlpb.NewVersion, error) {
	s := seal.Subject{ClusterID: r.clusterID, SecretID: secretID, VersionID: versionID, Kind: kind}
	data, key, err := seal.Seal(r.key, r.epoch, s, plain)
	if err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	return &controlpb.NewVersion{Id: s.VersionID, Sealed: &secretspb.SealedData{Data: data, Key: key, Epoch: r.epoch}}, nil
}

// ListSecrets lists the named secrets in their order, or all by name.
func (c *Client) ListSecrets(ctx context.Context, names []string, opts ...grpc.CallOption) (out []*secretspb.Secret, err error) {
	err = gather(ctx, &controlpb.StreamSecretsRequest{Secrets: names}, c.StreamSecrets, opts, func(page *controlpb.StreamSecretsResponse) {
		out = append(out, page.GetSecrets()...)
	})
	return out, err
}
