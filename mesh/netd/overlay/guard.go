package overlay

import (
	"crypto/sha256"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

type digest [sha256.Size]byte

// digestOf identifies a request.
func digestOf(req *netdpb.OverlayRequest) (digest, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	return sha256.Sum256(b), err
}

// guard refuses what is older than the declaration in force or made to another,
// and reports whether it is the one in force.
func (o *Overlays) guard(d declaration, sum digest) (again bool, err error) {
	switch now := o.plan.generation; {
	case d.generation < now:
		return false, fmt.Errorf("generation %d is older than %d, which is in force", d.generation, now)
	case d.generation == now && sum != o.sum:
		return false, fmt.Errorf("generation %d is in force with another content: use a higher one", now)
	case d.generation == now:
		return true, nil
	case d.base != 0 && d.base != now:
		return false, fmt.Errorf("base %d is not in force, generation %d is: declare the whole", d.base, now)
	}
	return false, nil
}
