package schedulerpb

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"google.golang.org/protobuf/proto"
)

// DigestSize is the length of an AssignmentsDigest.
const DigestSize = sha256.Size

// AssignmentsDigest is the same for the same assignments in any order. A node
// says with it what it holds, so that a manager that would say the same need
// not. What the managers had on record is left out: it matters to a node that
// begins, which holds nothing; so is how long a stop is held back, which a node
// that holds the assignment knows already. Two versions may encode differently and then
// disagree, which costs a complete set and nothing else.
func AssignmentsDigest(set []*Assignment) ([]byte, error) {
	set = slices.Clone(set)
	slices.SortFunc(set, func(a, b *Assignment) int { return cmp.Compare(a.GetTaskId(), b.GetTaskId()) })
	h := sha256.New()
	var buf []byte
	for _, a := range set {
		plain := &Assignment{
			TaskId: a.GetTaskId(), ServiceId: a.GetServiceId(), ServiceName: a.GetServiceName(), Slot: a.GetSlot(),
			Desired: a.GetDesired(), Spec: a.GetSpec(), NotBefore: a.GetNotBefore(), KillAt: a.GetKillAt(), Attachments: a.GetAttachments(),
			Files: a.GetFiles(), Signed: a.GetSigned(), Volumes: a.GetVolumes(),
		}
		var err error
		if buf, err = (proto.MarshalOptions{Deterministic: true}).MarshalAppend(buf[:0], plain); err != nil {
			return nil, err
		}
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(buf))))
		h.Write(buf)
	}
	return h.Sum(nil), nil
}
