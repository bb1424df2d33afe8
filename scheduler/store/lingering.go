package store

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// vipLinger is for how long a virtual address leads to the tasks of a service whose
// name leads there no more: the second that an answer may be kept, and what a caller may
// need to use one.
const vipLinger = 5 * time.Second

// lingering is until when the virtual addresses of a service stay, Unix nanoseconds;
// 0: until its mode is another. old is the service as it was; nobody else is given
// them meanwhile.
func lingering(sp *schedulerpb.ServiceSpec, vips bool, old *schedulerpb.Service, now time.Time) int64 {
	switch {
	case !vips || sp.GetEndpointMode() == schedulerpb.EndpointMode_ENDPOINT_MODE_VIP:
		return 0
	case old.GetVipsUntil() != 0:
		return old.GetVipsUntil()
	}
	return now.Add(vipLinger).UnixNano()
}

// DropVIPs gives a service's virtual addresses back that stayed until then. It does
// nothing where they are to stay longer by now.
func DropVIPs(tx *raftstore.Tx, id string, until int64) error {
	s, ok := Services.Get(tx, id)
	if !ok || until == 0 || s.GetVipsUntil() != until {
		return nil
	}
	s = proto.CloneOf(s)
	s.Vips, s.VipsUntil = nil, 0
	return Services.Put(tx, s)
}
