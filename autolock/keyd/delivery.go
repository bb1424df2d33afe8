package keyd

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/secrets/seal"
)

// openAndSeal seals keys of secrets to the rund of one node. That the rund is that
// node's is seen from what its leaf signed; that the tasks run there, and that
// their services were granted the secrets, is redoubtd's word.
func (s *Server) openAndSeal(req *keydpb.OpenAndSealRequest) (*keydpb.OpenAndSealResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	k, now := opened.keyset, time.Now()
	if n := len(req.GetItems()); n == 0 || n > maxSecretKeys {
		return nil, invalid("%d keys of secrets: 1 to %d are accepted", n, maxSecretKeys)
	}
	to, err := k.checkRund(req, now)
	if err != nil {
		return nil, err
	}
	if err := s.sealings.checkAll(len(req.GetItems()), secretRate, now); err != nil {
		return nil, err
	}
	masters, resp := k.openMasters(), &keydpb.OpenAndSealResponse{}
	var named []string
	for _, item := range req.GetItems() {
		key, subject, err := masters.open(item.GetKey())
		if err != nil {
			return nil, err
		}
		sealed, err := seal.ToNode(to, seal.Grant{ServiceID: item.GetServiceId(), TaskID: item.GetTaskId()}, subject, key)
		clear(key)
		if err != nil {
			return nil, invalid("%v", err)
		}
		resp.Sealed, named = append(resp.Sealed, sealed), append(named, subject.VersionID)
	}
	slices.Sort(named)
	detail := fmt.Sprintf("%d of %s", len(named), strings.Join(slices.Compact(named), " "))
	if err := s.note(entry{Event: "open-and-seal", Node: to.NodeID, Detail: detail}); err != nil {
		return nil, err
	}
	return resp, nil
}

// checkRund returns the statement of the node's rund, or an error unless the leaf
// of a node of this cluster, which is valid now, signed it.
func (k *keyset) checkRund(req *keydpb.OpenAndSealRequest, now time.Time) (to seal.Statement, err error) {
	chain, err := profile.ParseChain(req.GetNode())
	if err != nil {
		return to, invalid("%v", err)
	}
	node, err := profile.NodeFromCert(chain[0])
	if err != nil {
		return to, invalid("%v", err)
	}
	if to, err = seal.ParseStatement(req.GetStatement()); err != nil {
		return to, invalid("%v", err)
	}
	switch {
	case node.Role != profilepb.Role_ROLE_WORKER && node.Role != profilepb.Role_ROLE_MANAGER:
		return to, denied("a %s leaf gets no secrets", profile.RoleName(node.Role))
	case node.ClusterID != k.clusterID || k.verifyOld(chain[0], now) != nil:
		return to, denied("the node's leaf was not issued by this cluster, or is not valid now")
	case to.ClusterID != node.ClusterID || to.NodeID != node.NodeID:
		return to, denied("the statement is of another node's rund")
	}
	if err := seal.CheckStatement(chain[0].PublicKey, req.GetStatement(), req.GetSignature()); err != nil {
		return to, denied("%v", err)
	}
	return to, nil
}

// rewrapSecrets seals keys to the recipient in force, all of them or none.
func (s *Server) rewrapSecrets(req *keydpb.RewrapSecretsRequest) (*keydpb.RewrapSecretsResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	k := opened.keyset
	if n := len(req.GetKeys()); n == 0 || n > maxSecretKeys {
		return nil, invalid("%d keys of secrets: 1 to %d are accepted", n, maxSecretKeys)
	}
	if err := s.rewraps.checkAll(len(req.GetKeys()), rewrapRate, time.Now()); err != nil {
		return nil, err
	}
	resp := &keydpb.RewrapSecretsResponse{Epoch: k.master.epoch}
	masters := k.openMasters()
	now, err := masters.of(k.master.epoch)
	if err != nil {
		return nil, err
	}
	recipient := now.Recipient()
	for _, sealed := range req.GetKeys() {
		key, subject, err := masters.open(sealed)
		if err != nil {
			return nil, err
		}
		again, err := seal.WrapKey(recipient, k.master.epoch, subject, key)
		clear(key)
		if err != nil {
			return nil, err
		}
		resp.Sealed = append(resp.Sealed, again)
	}
	detail := fmt.Sprintf("%d to epoch %d", len(resp.Sealed), resp.Epoch)
	return resp, s.note(entry{Event: "rewrap-secrets", Detail: detail})
}

// dropMasters forgets the former secrets masters. That nothing is sealed to them
// any more is redoubtd's word. The keyset's epoch stays: nothing that signs is
// another one.
func (s *Server) dropMasters(req *keydpb.DropMastersRequest) (*keydpb.DropMastersResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	k := opened.keyset
	switch {
	case req.GetEpoch() != k.master.epoch:
		return nil, refuse(keydpb.Code_CODE_STALE_EPOCH, "the secrets master in use is of epoch %d, not of %d", k.master.epoch, req.GetEpoch())
	case len(k.formerMasters) == 0:
		return &keydpb.DropMastersResponse{}, nil
	}
	without := *k
	without.formerMasters = nil
	next, err := without.pack()
	if err != nil {
		return nil, err
	}
	if err := s.note(entry{Event: "drop-masters", Outcome: "begun", Detail: fmt.Sprintf("before epoch %d", k.master.epoch)}); err != nil {
		next.destroy()
		return nil, err
	}
	changed := *opened
	changed.keyset = next
	if err := s.save(&changed, s.file.state.GetNodeId(), s.file.state.GetSlots(), nil); err != nil {
		next.destroy()
		return nil, err
	}
	s.secrets = &changed
	k.destroy()
	s.log.Info("former secrets masters are forgotten", "epoch", next.master.epoch)
	return &keydpb.DropMastersResponse{}, nil
}

// masters are the key pairs of a keyset's secrets masters, each derived when it is
// first needed in a call.
type masters struct {
	keyset *keyset
	opened map[uint64]*seal.Master
}

func (k *keyset) openMasters() *masters { return &masters{k, map[uint64]*seal.Master{}} }

func (m *masters) of(epoch uint64) (*seal.Master, error) {
	if o := m.opened[epoch]; o != nil {
		return o, nil
	}
	for _, e := range append([]epochKey{m.keyset.master}, m.keyset.formerMasters...) {
		if e.epoch != epoch {
			continue
		}
		o, err := seal.NewMaster(m.keyset.clusterID, epoch, e.key)
		m.opened[epoch] = o
		return o, err
	}
	return nil, refuse(keydpb.Code_CODE_STALE_EPOCH, "a secret's key is sealed to the secrets master of epoch %d, which this keyd does not have", epoch)
}

// open opens the key of a version, which the caller wipes.
func (m *masters) open(k *keydpb.SecretKey) ([]byte, seal.Subject, error) {
	s := seal.Subject{ClusterID: m.keyset.clusterID, SecretID: k.GetSecretId(), VersionID: k.GetVersionId(), Kind: k.GetKind()}
	master, err := m.of(k.GetEpoch())
	if err != nil {
		return nil, s, err
	}
	key, err := master.OpenKey(s, k.GetSealed())
	if err != nil {
		return nil, s, denied("version %q: %v", s.VersionID, err)
	}
	return key, s, nil
}
