package pki

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// prove finds the token and verifies that the joiner holds its seed.
func (s *JoinServer) prove(j *join) (*pkipb.Token, *profilepb.TokenRecord, error) {
	var token *pkipb.Token
	err := s.cfg.Store.View(func(r *raftstore.ReadTx) error {
		token, _ = store.Tokens.Get(r, j.GetTokenId())
		return nil
	})
	if err != nil {
		return nil, nil, errJoinInternal
	}
	record, err := profile.ParseTokenRecord(token.GetSigned().GetRecord())
	public := []byte(unknownKey)
	known := token != nil && err == nil && record.GetId() == token.GetId()
	if known {
		public = record.GetPublicKey()
	}
	if profile.CheckJoinProof(public, j.exporter, j.GetCsr(), j.GetBootCsr(), j.GetTokenId(), j.GetProof()) != nil || !known {
		return nil, nil, errJoinRefused
	}
	return token, record, nil
}

// checkUse says whether the token may be used once more, by that node.
func checkUse(c *pkipb.Cluster, t *pkipb.Token, r *profilepb.TokenRecord, clusterID, name string, source netip.Addr, now time.Time) error {
	switch err := profile.CheckToken(r, clusterID, now); {
	case errors.Is(err, profile.ErrTokenExpired):
		return errTokenExpired
	case err != nil:
		return errJoinRefused
	case t.GetRevoked(), TokenVoid(c, t):
		return errTokenRevoked
	case r.GetMaxUses() != 0 && t.GetUses() >= r.GetMaxUses():
		return errTokenUsed
	case r.GetNodeName() != "" && r.GetNodeName() != name:
		return errTokenName
	}
	if c := r.GetCidr(); c != "" {
		if p, err := netip.ParsePrefix(c); err != nil || !p.Contains(source) {
			return errTokenSource
		}
	}
	return nil
}

// CheckManagerRoom refuses where there is no room for another manager. Those
// that were removed take none.
func CheckManagerRoom(r raftstore.Reader) error {
	n := 0
	for m := range store.Nodes.By(r, "role", profile.RoleName(profilepb.Role_ROLE_MANAGER)) {
		if !m.GetDenied() {
			n++
		}
	}
	if n >= raftstore.MaxManagers {
		return errTooManyManagers
	}
	return nil
}

// checkLevel refuses a manager whose version would not understand what is in the
// store. One that says nothing is of a version before there were levels.
func checkLevel(tx *raftstore.Tx, understands uint32) error {
	if understands = max(understands, 1); understands < tx.Level() {
		return fmt.Errorf("this node's version is too old to be a manager here: it understands store level %d and the cluster is at %d: install the version that the managers run", understands, tx.Level())
	}
	return nil
}
