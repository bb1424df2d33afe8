package fabric

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// proofLabel makes the key of a proof another one than all that WireGuard makes of
// the same two keys.
const proofLabel = "redoubt wireguard key proof v1"

// Prove makes tags over what redoubtd gives, under a key that only this node and the
// holder of the other WireGuard key can make (after RFC 6955, section 4). So a peer
// shows that the key it announces is its own, and this node that it has the one it
// announces. The contexts say who shows what to whom; the shared secret itself stays
// here.
func (f *Fabric) Prove(req *netdpb.FabricProveRequest) (*netdpb.FabricProveResponse, error) {
	if len(req.GetProofs()) > maxProofs {
		return nil, fmt.Errorf("%d proofs exceed the limit of %d", len(req.GetProofs()), maxProofs)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, errors.New("netd is stopping")
	}
	resp := &netdpb.FabricProveResponse{}
	for _, p := range req.GetProofs() {
		if len(p.GetOwnPublicKey()) != wgtypes.KeyLen || len(p.GetPeerPublicKey()) != wgtypes.KeyLen || len(p.GetContext()) == 0 || len(p.GetContext()) > maxProofContext {
			return nil, errors.New("a proof takes two WireGuard keys and what it is for")
		}
		var own *secret
		switch k := wgtypes.Key(p.GetOwnPublicKey()); {
		case f.current != nil && k == f.current.public:
			own = f.current
		case f.next != nil && k == f.next.public:
			own = f.next
		default:
			return nil, fmt.Errorf("own_public_key %s is not this node's", k)
		}
		tag, err := own.prove(p.GetPeerPublicKey(), p.GetContext())
		if err != nil {
			return nil, err
		}
		resp.Tags = append(resp.Tags, tag)
	}
	return resp, nil
}

func (s *secret) prove(peer, context []byte) ([]byte, error) {
	private, err := ecdh.X25519().NewPrivateKey(s.key()[:])
	if err != nil {
		return nil, errors.New("the WireGuard key is none of Curve25519")
	}
	public, err := ecdh.X25519().NewPublicKey(peer)
	if err != nil {
		return nil, errors.New("the peer's key is none of Curve25519")
	}
	shared, err := private.ECDH(public) // refuses points of low order
	if err != nil {
		return nil, errors.New("the peer's key is none that a node could have")
	}
	defer clear(shared)
	key, err := hkdf.Key(sha256.New, shared, nil, proofLabel, sha256.Size)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	mac := hmac.New(sha256.New, key)
	mac.Write(context)
	return mac.Sum(nil), nil
}
