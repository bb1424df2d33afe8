package store

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// Bounds of the former specs that are kept of a service: so many, and while they are
// larger than so much only the newest one, and the one that a running update goes back
// to. A transaction that replaces the largest spec by another has room for both.
const (
	MaxFormer      = 10
	MaxFormerBytes = 1 << 20
)

// RecordID is the id of the record of a service's spec.
func RecordID(serviceID string, number uint64) string {
	return fmt.Sprintf("%s/%d", serviceID, number)
}

// SpecNumber is that of the spec in force.
func SpecNumber(s *schedulerpb.Service) uint64 { return max(1, s.GetSpecNumber()) }

// History are the records of a service's specs, ascending by number, among them the one
// in force (without the spec), unless it is older than records are.
func History(r raftstore.Reader, serviceID string) []*schedulerpb.ServiceSpecRecord {
	out := slices.Collect(SpecRecords.By(r, "service", serviceID))
	slices.SortFunc(out, func(a, b *schedulerpb.ServiceSpecRecord) int {
		if a.GetNumber() < b.GetNumber() {
			return -1
		}
		return 1
	})
	return out
}

// Previous is the number that a service goes back to where nobody names one: while its
// revision is not reached yet what the update began from, else the number below the one in
// force. 0: there is nothing to go back to.
func Previous(s *schedulerpb.Service, history []*schedulerpb.ServiceSpecRecord) (n uint64) {
	st := s.GetUpdateStatus()
	for _, rec := range history {
		switch {
		case rec.GetSpec() == nil:
		case unproven(st) && rec.GetNumber() == st.GetFrom():
			return rec.GetNumber()
		case rec.GetNumber() < SpecNumber(s):
			n = rec.GetNumber()
		}
	}
	return n
}

// record numbers the spec of next, which takes the place of old's (nil: it is the first),
// and keeps the former. back is the former one that it is, or nil.
func record(tx *raftstore.Tx, old, next *schedulerpb.Service, by string, back *schedulerpb.ServiceSpecRecord) error {
	if next.SpecNumber = 1; old != nil {
		history := History(tx, old.GetId())
		was := &schedulerpb.ServiceSpecRecord{Id: RecordID(old.GetId(), SpecNumber(old)), ServiceId: old.GetId(), Number: SpecNumber(old)}
		next.SpecNumber = SpecNumber(old) + 1
		for _, rec := range history {
			next.SpecNumber = max(next.SpecNumber, rec.GetNumber()+1)
			if rec.GetNumber() == was.GetNumber() {
				was = proto.CloneOf(rec)
			}
		}
		was.Revision, was.Spec, was.Signed = old.GetRevision(), old.GetSpec(), old.GetSigned()
		was.Volumes = volumeIDs(tx, old.GetSpec())
		if err := SpecRecords.Put(tx, was); err != nil {
			return err
		}
		if back != nil {
			next.SpecNumber = back.GetNumber()
		}
		if err := prune(tx, history, was, next); err != nil {
			return err
		}
	}
	if back != nil {
		back = proto.CloneOf(back)
		back.Spec, back.Volumes, back.Signed, back.Revision = nil, nil, nil, next.GetRevision()
		return SpecRecords.Put(tx, back)
	}
	return SpecRecords.Put(tx, &schedulerpb.ServiceSpecRecord{
		Id: RecordID(next.GetId(), next.GetSpecNumber()), ServiceId: next.GetId(), Number: next.GetSpecNumber(),
		At: tx.Now().UnixNano(), By: by, Revision: next.GetRevision(),
	})
}

// prune forgets the oldest of those that were kept before was.
func prune(tx *raftstore.Tx, kept []*schedulerpb.ServiceSpecRecord, was *schedulerpb.ServiceSpecRecord, next *schedulerpb.Service) error {
	count, bytes := 1, proto.Size(was)
	for _, rec := range slices.Backward(kept) {
		n := rec.GetNumber()
		if n == was.GetNumber() || n == next.GetSpecNumber() {
			continue
		}
		count, bytes = count+1, bytes+proto.Size(rec)
		if n == next.GetUpdateStatus().GetFrom() || count <= MaxFormer && bytes <= MaxFormerBytes {
			continue
		}
		if err := SpecRecords.Delete(tx, rec.GetId()); err != nil {
			return err
		}
	}
	return nil
}

// forgetHistory goes with the service.
func forgetHistory(tx *raftstore.Tx, serviceID string) error {
	for _, rec := range History(tx, serviceID) {
		if err := SpecRecords.Delete(tx, rec.GetId()); err != nil {
			return err
		}
	}
	return nil
}
