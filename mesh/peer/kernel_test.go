package peer

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// kernel is netd's Fabric as far as this package can see it: generations, bases and
// own keys are as strict, and it has keys of its own. The real one runs in
// TestRealFabric.
type kernel struct {
	mu       sync.Mutex
	own      key // whose private halves are in privates
	next     key
	gen      uint64
	port     uint32
	peers    map[string]*netdpb.FabricPeer
	calls    int
	refusals []error // of the next declarations
	down     bool
	unable   int // so many times it shows nothing
	shook    map[string]time.Time
	mtu      uint32
	underlay []string
	alive    map[string]bool // nodes with a session: they may not be left behind
}

func newKernel() *kernel {
	k := &kernel{alive: map[string]bool{}, shook: map[string]time.Time{}}
	k.restart()
	return k
}

// privates are the private halves of the keys of all tests.
var privates sync.Map

func freshKey() key {
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	k := key(private.PublicKey().Bytes())
	privates.Store(k, private)
	return k
}

// proof is a tag of the holder of own.
func proof(own, peer key, context []byte) ([]byte, error) {
	private, ok := privates.Load(own)
	if !ok {
		return nil, fmt.Errorf("%x is no key of this node", own[:4])
	}
	public, err := ecdh.X25519().NewPublicKey(peer[:])
	if err != nil {
		return nil, err
	}
	shared, err := private.(*ecdh.PrivateKey).ECDH(public)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, shared)
	mac.Write(context)
	return mac.Sum(nil), nil
}

func (k *kernel) Prove(_ context.Context, req *netdpb.FabricProveRequest) (*netdpb.FabricProveResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.down {
		return nil, errors.New("netd is not answering")
	}
	if k.unable > 0 {
		k.unable--
		return nil, errors.New("not now")
	}
	resp := &netdpb.FabricProveResponse{}
	for _, p := range req.Proofs {
		own := key(p.OwnPublicKey)
		if own != k.own && own != k.next || own == (key{}) {
			return nil, errors.New("own_public_key is not this node's")
		}
		tag, err := proof(own, key(p.PeerPublicKey), p.Context)
		if err != nil {
			return nil, err
		}
		resp.Tags = append(resp.Tags, tag)
	}
	return resp, nil
}

// restart is what a new process of netd has.
func (k *kernel) restart() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.own, k.next, k.gen, k.port, k.peers = freshKey(), key{}, 0, 0, map[string]*netdpb.FabricPeer{}
}

func (k *kernel) public() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.own[:])
}

func (k *kernel) peer(id string) *netdpb.FabricPeer {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.peers[id]
}

func (k *kernel) State(context.Context) (*netdpb.FabricStateResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.down {
		return nil, errors.New("netd is not answering")
	}
	r := &netdpb.FabricStateResponse{Generation: k.gen, PublicKey: slices.Clone(k.own[:]), ListenPort: k.port, Interface: "rdtw0", Mtu: k.mtu, Underlay: k.underlay}
	if k.port != 0 {
		r.Driver = "embedded"
	}
	for id, p := range k.peers {
		q := &netdpb.FabricPeerState{NodeId: id, PublicKey: p.PublicKey}
		if at, ok := k.shook[id]; ok {
			q.HandshakeAgeMs = proto.Uint64(uint64(time.Since(at).Milliseconds()))
		}
		r.Peers = append(r.Peers, q)
	}
	return r, nil
}

func (k *kernel) Rotate(context.Context) (*netdpb.FabricRotateResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.next == (key{}) {
		k.next = freshKey()
	}
	return &netdpb.FabricRotateResponse{PublicKey: slices.Clone(k.own[:]), NextPublicKey: slices.Clone(k.next[:])}, nil
}

func (k *kernel) Declare(_ context.Context, req *netdpb.FabricRequest) (*netdpb.FabricResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls++
	if k.down {
		return nil, errors.New("netd is not answering")
	}
	if len(k.refusals) > 0 {
		err := k.refusals[0]
		k.refusals = k.refusals[1:]
		return nil, err
	}
	turn := k.next != (key{}) && bytes.Equal(req.OwnPublicKey, k.next[:])
	switch {
	case req.Generation <= k.gen:
		return nil, fmt.Errorf("generation %d is older than %d", req.Generation, k.gen)
	case req.Base != 0 && req.Base != k.gen:
		return nil, fmt.Errorf("base %d is not in force", req.Base)
	case req.Address == "" && len(req.Peers) > 0:
		return nil, errors.New("address is missing")
	case req.Address != "" && !turn && !bytes.Equal(req.OwnPublicKey, k.own[:]):
		return nil, errors.New("own_public_key is not this node's")
	case turn && req.Base != 0:
		return nil, errors.New("put it in force with a whole declaration")
	}
	peers := map[string]*netdpb.FabricPeer{}
	if req.Base != 0 {
		for id, p := range k.peers {
			peers[id] = p
		}
	}
	for _, id := range req.Removed {
		if peers[id] == nil {
			return nil, fmt.Errorf("node %s is to be removed and is no peer", id)
		}
		delete(peers, id)
	}
	for _, p := range req.Peers {
		if len(p.PresharedKey) != 32 || bytes.Equal(p.PresharedKey, make([]byte, 32)) {
			return nil, errors.New("no peer goes without a pre-shared key")
		}
		peers[p.NodeId] = &netdpb.FabricPeer{NodeId: p.NodeId, PublicKey: slices.Clone(p.PublicKey), PresharedKey: slices.Clone(p.PresharedKey),
			Endpoint: p.Endpoint, Address: p.Address, KeepaliveSeconds: p.KeepaliveSeconds, Mtu: p.Mtu}
		if p.Next != nil {
			peers[p.NodeId].Next = &netdpb.FabricKey{PublicKey: slices.Clone(p.Next.PublicKey), PresharedKey: slices.Clone(p.Next.PresharedKey)}
		}
	}
	seen := map[string]string{}
	for id, p := range peers {
		if by := seen[string(p.PublicKey)]; by != "" {
			return nil, fmt.Errorf("public key of %s belongs to %s", id, by)
		}
		seen[string(p.PublicKey)] = id
	}
	if turn {
		for id := range k.peers {
			if k.alive[id] && peers[id] == nil {
				return nil, fmt.Errorf("node %s has a session and no pre-shared key for the next key", id)
			}
		}
		k.own, k.next = k.next, key{}
	}
	k.gen, k.peers = req.Generation, peers
	switch k.port = req.ListenPort; {
	case req.Address == "":
		k.port = 0
	case k.port == 0:
		k.port = 51820
	}
	return &netdpb.FabricResponse{PublicKey: slices.Clone(k.own[:]), ListenPort: k.port}, nil
}

func (k *kernel) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.peers)
}
