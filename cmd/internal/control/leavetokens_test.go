package control_test

import (
	"context"
	"log/slog"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
)

func TestTokensTooOften(t *testing.T) {
	w := newWorld(t)
	api := control.New(control.Config{Store: w.store, ClusterID: w.ca.ClusterID, Logger: slog.New(slog.DiscardHandler), Minter: minter(func(*profilepb.TokenRecord) (*profilepb.SignedTokenRecord, error) {
		return nil, &keydclient.Error{Code: keydpb.Code_CODE_RATE_LIMITED, Message: "too many requests of this kind"}
	})})
	tok := pki.NewToken()
	_, err := api.CreateToken(t.Context(), &controlpb.CreateTokenRequest{Id: tok.ID(), PublicKey: tok.PublicKey(), Role: profilepb.Role_ROLE_MANAGER})
	wantReason(t, err, apierr.ReasonState, "try again in half a minute")
}

// A token that the leader's keyd signs before it took the next keyset over would
// be void from birth: it is signed again, or not made.
func TestTokenOvertakenByRotation(t *testing.T) {
	w := newWorld(t)
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		c, err := pkistore.GetCluster(tx)
		if err != nil {
			return err
		}
		c = proto.CloneOf(c)
		c.KeysetEpoch = 2
		return pkistore.Cluster.Put(tx, c)
	})
	behind := 2
	api := control.New(control.Config{Store: w.store, ClusterID: w.ca.ClusterID, Logger: slog.New(slog.DiscardHandler), Minter: minter(func(r *profilepb.TokenRecord) (*profilepb.SignedTokenRecord, error) {
		signed, err := w.ca.MintToken(t.Context(), r)
		if signed.KeysetEpoch = 2; behind != 0 {
			signed.KeysetEpoch = 1
			behind--
		}
		return signed, err
	})})
	create := func() error {
		tok := pki.NewToken()
		_, err := api.CreateToken(t.Context(), &controlpb.CreateTokenRequest{Id: tok.ID(), PublicKey: tok.PublicKey(), Role: profilepb.Role_ROLE_WORKER})
		return err
	}
	if err := create(); err != nil {
		t.Errorf("keyd took it over at the third try: %v", err)
	}
	behind = -1
	wantReason(t, create(), apierr.ReasonState, "try again in a few seconds")
}

type minter func(*profilepb.TokenRecord) (*profilepb.SignedTokenRecord, error)

func (f minter) MintToken(_ context.Context, r *profilepb.TokenRecord) (*profilepb.SignedTokenRecord, error) {
	return f(r)
}
