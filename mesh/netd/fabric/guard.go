package fabric

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// digest identifies a request.
func digest(req *netdpb.FabricRequest) (sum [sha256.Size]byte, err error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	defer clear(b)
	if err != nil {
		return sum, err
	}
	return sha256.Sum256(b), nil
}

// guard refuses what is older than the declaration in force or made to another,
// and reports whether it is the one in force.
func (f *Fabric) guard(d declaration, sum [sha256.Size]byte) (again bool, err error) {
	switch now := f.plan.generation; {
	case d.generation < now:
		return false, fmt.Errorf("generation %d is older than %d, which is in force", d.generation, now)
	case d.generation == now && sum != f.sum:
		return false, fmt.Errorf("generation %d is in force with another content: use a higher one", now)
	case d.generation == now:
		return true, nil
	case d.base != 0 && d.base != now:
		return false, fmt.Errorf("base %d is not in force, generation %d is: declare the whole", d.base, now)
	}
	return false, nil
}

// nobodyLeftBehind refuses to put the next key in force while a peer that is
// alive is not part of the declaration.
func (f *Fabric) nobodyLeftBehind(d declaration) error {
	if d.base != 0 {
		return errors.New("own_public_key is the next one: put it in force with a whole declaration")
	}
	if f.driver == nil {
		return nil
	}
	s, err := f.driver.read()
	if err != nil {
		return fmt.Errorf("read the WireGuard interface: %w", err)
	}
	declared := make(map[string]bool, len(d.upsert))
	for _, p := range d.upsert {
		declared[p.node] = true
	}
	for k, id := range f.plan.keys {
		if p, ok := s.peers[k]; ok && !declared[id] && alive(p) {
			return fmt.Errorf("node %s has a session and no pre-shared key for the next key: let it confirm first, or remove it under the key in force", id)
		}
	}
	return nil
}

// forgetTurns drops what was noted of keys that nobody announces any more.
func (f *Fabric) forgetTurns() {
	maps.DeleteFunc(f.turned, func(k wgtypes.Key, _ bool) bool { return !f.plan.announced[k] })
}
