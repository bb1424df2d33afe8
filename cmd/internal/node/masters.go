package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/pki"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	secretspec "github.com/redoubt-cluster/redoubt/secrets/spec"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

// A keyset made anew has another secrets master. The leader has the keys of all
// versions sealed to that one; each manager has its keyd forget the masters of
// before once its own store has no version that needs one. None can come any more:
// a version is only stored while it is sealed to the master in force, which the
// same transaction reads.

// rewrapAtOnce bounds the keys that are sealed anew in one transaction.
const rewrapAtOnce = 128

// tendMasters reports whether this manager's keyd has one secrets master alone.
func (m *managerState) tendMasters(ctx context.Context) (bool, error) {
	st, err := m.n.keyd.Status(ctx)
	if err != nil {
		return false, fmt.Errorf("%w (%v)", errKeydLost, err)
	}
	if len(st.GetFormerMasters()) == 0 {
		return true, nil
	}
	epoch, sealed := st.GetSecretsEpoch(), 0
	for {
		stale, newest, err := m.staleKeys(epoch)
		switch {
		case err != nil:
			return false, err
		case !newest: // another keyset was committed: that one first
			return false, nil
		case len(stale) == 0:
			if sealed > 0 {
				m.n.log.Info("the keys of secrets are sealed to the cluster's new key", "epoch", epoch, "keys", sealed)
			}
			return true, m.n.keyd.DropMasters(ctx, epoch)
		case !m.store.IsLeader():
			return false, nil
		}
		resp, err := m.n.keyd.RewrapSecrets(ctx, stale)
		if err != nil {
			return false, err
		}
		if resp.GetEpoch() != epoch || len(resp.GetSealed()) != len(stale) {
			return false, errors.New("keyd sealed something else than it was asked to")
		}
		keys := map[string][]byte{}
		for i, k := range stale {
			keys[k.GetVersionId()] = resp.GetSealed()[i]
		}
		if err := m.store.Update(ctx, func(tx *raftstore.Tx) error { return secretstore.SealedAnew(tx, epoch, keys) }); err != nil {
			return false, err
		}
		sealed += len(stale)
	}
}

// staleKeys are some of the keys that are sealed to a master before that of epoch,
// which is the newest one as far as the store knows.
func (m *managerState) staleKeys(epoch uint64) (stale []*keydpb.SecretKey, newest bool, err error) {
	err = m.store.View(func(r *raftstore.ReadTx) error {
		c, ok := pkistore.Cluster.Get(r, pkistore.ClusterID)
		if newest = ok && pki.WholeEpoch(c) == epoch; !newest {
			return nil
		}
		for v := range secretstore.SecretVersions.All(r) {
			if v.GetSealed().GetEpoch() >= epoch {
				continue
			}
			s, ok := secretstore.Secrets.Get(r, v.GetSecretId())
			if !ok {
				return fmt.Errorf("version %s is of no secret", v.GetId())
			}
			stale = append(stale, &keydpb.SecretKey{SecretId: v.GetSecretId(), VersionId: v.GetId(), Kind: secretspec.KindOf(s.GetSpec()),
				Epoch: v.GetSealed().GetEpoch(), Sealed: v.GetSealed().GetKey()})
			if len(stale) == rewrapAtOnce {
				return nil
			}
		}
		return nil
	})
	return stale, newest, err
}
