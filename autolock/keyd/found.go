package keyd

import (
	"context"
	"crypto/subtle"
	"fmt"
	"math"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

var errAlready = refuse(keydpb.Code_CODE_ALREADY, "this keyd already holds a cluster's keys: leave that cluster first")

// prepareJoin returns the public half of this keyd's own key. On an empty keyd
// it makes the key, once; on a manager the key is as old as its state.
func (s *Server) prepareJoin() (*keydpb.PrepareJoinResponse, error) {
	if s.file != nil {
		opened, err := s.opened()
		if err != nil {
			return nil, err
		}
		return &keydpb.PrepareJoinResponse{KeydKey: opened.local.keydKey}, nil
	}
	if err := s.prepare(); err != nil {
		return nil, err
	}
	return &keydpb.PrepareJoinResponse{KeydKey: s.prepared.public}, nil
}

// prepare makes the key of an empty keyd unless there is one.
func (s *Server) prepare() (err error) {
	if s.prepared == nil {
		s.prepared, err = newPrepared()
	}
	return err
}

// init makes a cluster. Either all of it is on disk when it returns, or nothing.
func (s *Server) init(ctx context.Context, req *keydpb.InitRequest) (*keydpb.InitResponse, error) {
	if s.file != nil {
		return nil, errAlready
	}
	set := &keydpb.SlotSet{Epoch: 1, Slots: req.GetSlots()}
	if len(set.Slots) != 1 {
		return nil, invalid("init takes exactly one slot, the operator key's, not %d", len(set.Slots))
	}
	if err := autolock.CheckSlotSet(set); err != nil {
		return nil, invalid("%v", err)
	}
	if !ident.Valid(req.GetNodeId()) {
		return nil, invalid("malformed node id")
	}
	reqs, err := s.firstRequests(req.GetManagerCsr(), req.GetBootCsr())
	if err != nil {
		return nil, err
	}
	now := time.Now()
	opened := &secrets{incarnation: 1}
	if opened.keyset, err = newKeyset(now); err != nil {
		return nil, fmt.Errorf("making the cluster's keys: %w", err)
	}
	if opened.local, err = newLocal(s.prepared, set.GetEpoch()); err != nil {
		opened.destroy()
		return nil, err
	}
	leaf, boot, err := s.issueAll(ctx, opened.keyset, reqs, req.GetNodeId(), now)
	if err == nil {
		err = s.found(opened, req.GetNodeId(), set, nil, "init")
	}
	if err != nil {
		opened.destroy()
		return nil, err
	}
	return &keydpb.InitResponse{ClusterId: opened.keyset.clusterID, Manager: leaf, Boot: boot, Slots: set}, nil
}

// firstRequests reads those of the manager that an empty keyd becomes, which must name
// its own key.
func (s *Server) firstRequests(managerCSR, bootCSR []byte) (*requests, error) {
	reqs, err := parseRequests(profilepb.Role_ROLE_MANAGER, managerCSR, bootCSR)
	if err != nil {
		return nil, err
	}
	if err := s.prepare(); err != nil {
		return nil, err
	}
	if err := reqs.certifyOwn(s.prepared.public); err != nil {
		return nil, err
	}
	return reqs, reqs.complete()
}

// importKeyset makes this keyd a manager's of an existing cluster.
func (s *Server) importKeyset(req *keydpb.ImportKeysetRequest, made map[string]madeSeed) (*keydpb.ImportKeysetResponse, error) {
	set := req.GetSlots()
	switch {
	case s.file != nil:
		return nil, errAlready
	case s.prepared == nil:
		return nil, invalid("no join was prepared: keyd may have been restarted; join again")
	case !ident.Valid(req.GetNodeId()) || !ident.Valid(req.GetClusterId()):
		return nil, invalid("malformed node or cluster id")
	case len(req.GetSealedKeyset()) > maxSealedKeyset:
		return nil, invalid("the sealed keyset is larger than %d bytes", maxSealedKeyset)
	case set.GetEpoch() > math.MaxUint32:
		return nil, invalid("the slot epoch is too large")
	}
	if err := autolock.CheckSlotSet(set); err != nil {
		return nil, invalid("%v", err)
	}
	k, err := receiveKeyset(s.prepared, req.GetClusterId(), req.GetNodeId(), req.GetSealedKeyset())
	if err != nil {
		return nil, err
	}
	opened := &secrets{keyset: k, incarnation: max(1, req.GetIncarnation())}
	switch {
	case k.clusterID != req.GetClusterId():
		err = denied("the keyset is of another cluster")
	case subtle.ConstantTimeCompare(profile.SPKIHash(k.root), req.GetRootPin()) != 1:
		err = denied("the keyset's root is not the one that the join token pins")
	default:
		opened.local, err = newLocal(s.prepared, set.GetEpoch())
	}
	if err == nil {
		err = s.found(opened, req.GetNodeId(), set, made, "import-keyset")
	}
	if err != nil {
		opened.destroy()
		return nil, err
	}
	return &keydpb.ImportKeysetResponse{}, nil
}

// found takes a manager's secrets into use: from EMPTY to UNLOCKED. The state
// file appears whole or not at all. On an error opened stays the caller's.
func (s *Server) found(opened *secrets, nodeID string, set *keydpb.SlotSet, made map[string]madeSeed, event string) (err error) {
	if err := s.journal.begin(opened.local.journal); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.journal.key = nil
		}
	}()
	if err := s.note(entry{Event: event, Outcome: "begun", Node: nodeID, Detail: slotDetail(set)}); err != nil {
		return err
	}
	if err := s.save(opened, nodeID, set, made); err != nil {
		return err
	}
	s.secrets = opened
	s.prepared.destroy()
	s.prepared = nil
	s.notify()
	s.log.Info("this keyd is now a manager's", "cluster", opened.keyset.clusterID, "node", nodeID)
	return nil
}

func slotDetail(set *keydpb.SlotSet) string {
	d := fmt.Sprintf("epoch %d, slots", set.GetEpoch())
	for _, slot := range set.GetSlots() {
		d += " " + slot.GetId()
	}
	return d
}
