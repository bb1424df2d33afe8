package fabric

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/strictpb"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

func key(n byte) []byte { return bytes.Repeat([]byte{n}, 32) }

func sample(id string, n byte) *netdpb.FabricPeer {
	return &netdpb.FabricPeer{NodeId: id, PublicKey: key(n), PresharedKey: key(n + 100), Endpoint: "192.0.2.9:51820", Address: "198.18.0." + string('0'+rune(n))}
}

func TestDeclarationsThatAreRefused(t *testing.T) {
	id, other := ident.New(), ident.New()
	for part, harm := range map[string]func(r *netdpb.FabricRequest){
		"generation is missing":            func(r *netdpb.FabricRequest) { r.Generation = 0 },
		"base 5 is not older":              func(r *netdpb.FabricRequest) { r.Base = 5 },
		"base is missing":                  func(r *netdpb.FabricRequest) { r.Removed = []string{other} },
		"address is missing":               func(r *netdpb.FabricRequest) { r.Address = "" },
		"is no address with prefix length": func(r *netdpb.FabricRequest) { r.Address = "198.18.0.1" },
		"mesh addresses are IPv4":          func(r *netdpb.FabricRequest) { r.Address = "fd00::1/64" },
		"prefix length must be":            func(r *netdpb.FabricRequest) { r.Address = "198.18.0.1/31" },
		"is no host of its own prefix":     func(r *netdpb.FabricRequest) { r.Address = "198.18.0.0/15" },
		"listen_port 65536":                func(r *netdpb.FabricRequest) { r.ListenPort = 65536 },
		"control_port 70000":               func(r *netdpb.FabricRequest) { r.ControlPort = 70000 },
		"underlay_mtu 1300":                func(r *netdpb.FabricRequest) { r.UnderlayMtu = 1300 },
		"own_public_key has 0 bytes":       func(r *netdpb.FabricRequest) { r.OwnPublicKey = nil },
		"is no node id":                    func(r *netdpb.FabricRequest) { r.Peers[0].NodeId = "../x" },
		"stands twice":                     func(r *netdpb.FabricRequest) { r.Peers = append(r.Peers, sample(id, 3)) },
		"public_key is zero":               func(r *netdpb.FabricRequest) { r.Peers[0].PublicKey = make([]byte, 32) },
		"preshared_key is missing":         func(r *netdpb.FabricRequest) { r.Peers[0].PresharedKey = nil },
		"preshared_key is zero":            func(r *netdpb.FabricRequest) { r.Peers[0].PresharedKey = make([]byte, 32) },
		"next public_key has 1 bytes":      func(r *netdpb.FabricRequest) { r.Peers[0].Next = &netdpb.FabricKey{PublicKey: []byte{1}} },
		"next preshared_key is missing":    func(r *netdpb.FabricRequest) { r.Peers[0].Next = &netdpb.FabricKey{PublicKey: key(9)} },
		"is no other host of the mesh":     func(r *netdpb.FabricRequest) { r.Peers[0].Address = "198.18.0.1" },
		`address "10.0.0.1" is no other`:   func(r *netdpb.FabricRequest) { r.Peers[0].Address = "10.0.0.1" },
		"is no address:port":               func(r *netdpb.FabricRequest) { r.Peers[0].Endpoint = "example.org:1" },
		"cannot go through itself":         func(r *netdpb.FabricRequest) { r.Peers[0].Endpoint = "198.18.0.9:51820" },
		"endpoint 224.0.0.1:1 is no":       func(r *netdpb.FabricRequest) { r.Peers[0].Endpoint = "224.0.0.1:1" },
		"endpoint 127.0.0.1:1 is no":       func(r *netdpb.FabricRequest) { r.Peers[0].Endpoint = "127.0.0.1:1" },
		"keepalive of":                     func(r *netdpb.FabricRequest) { r.Peers[0].KeepaliveSeconds = 1 << 20 },
	} {
		r := &netdpb.FabricRequest{Generation: 5, OwnPublicKey: key(1), Address: "198.18.0.1/15", Peers: []*netdpb.FabricPeer{sample(id, 2)}}
		harm(r)
		_, err := parse(r)
		wantError(t, err, part)
	}
}

// Two plans to which peers are added that have something of another's.
func TestNobodyHasWhatIsAnothers(t *testing.T) {
	a, b := ident.New(), ident.New()
	base := func() *plan {
		d, err := parse(&netdpb.FabricRequest{Generation: 1, OwnPublicKey: key(1), Address: "198.18.0.1/15", Peers: []*netdpb.FabricPeer{sample(a, 2)}})
		if err != nil {
			t.Fatal(err)
		}
		p, _, err := emptyPlan().merge(d)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for part, x := range map[string]struct {
		peer    func(p *netdpb.FabricPeer)
		removed []string
	}{
		"address 198.18.0.2 belongs to " + a: {func(p *netdpb.FabricPeer) { p.Address = "198.18.0.2" }, nil},
		"belongs to " + a:                    {func(p *netdpb.FabricPeer) { p.PublicKey = key(2) }, nil},
		"belongs to this node":               {func(p *netdpb.FabricPeer) { p.Next = &netdpb.FabricKey{PublicKey: key(1), PresharedKey: key(7)} }, nil},
		"is to be removed and is no peer":    {func(*netdpb.FabricPeer) {}, []string{ident.New()}},
		"":                                   {func(p *netdpb.FabricPeer) { p.Address, p.PublicKey = "198.18.0.2", key(2) }, []string{a}},
	} {
		peer := sample(b, 3)
		x.peer(peer)
		p := base()
		d, err := parse(&netdpb.FabricRequest{Generation: 2, Base: 1, OwnPublicKey: key(1), Address: "198.18.0.1/15", Peers: []*netdpb.FabricPeer{peer}, Removed: x.removed})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = p.merge(d, [32]byte(key(1)))
		if part == "" {
			if err != nil || len(p.peers) != 1 || len(p.keys) != 1 || len(p.addrs) != 1 {
				t.Errorf("taken over: %v, %d peers", err, len(p.peers))
			}
			continue
		}
		wantError(t, err, part)
		if len(p.peers) != 1 || p.generation != 1 {
			t.Error("a refused declaration changed the plan")
		}
	}
}

// Older and doubtful generations are refused; the same may come again.
func TestGenerations(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	send := func(r *netdpb.FabricRequest) error {
		_, err := a.f.Declare(t.Context(), proto.Clone(r).(*netdpb.FabricRequest))
		return err
	}
	first, second := a.request(b), a.request(b)
	if err := send(second); err != nil {
		t.Fatal(err)
	}
	if err := send(second); err != nil {
		t.Errorf("again: %v", err)
	}
	wantError(t, send(first), "generation 1 is older than 2")
	second.ListenPort++
	wantError(t, send(second), "with another content")
	second.Generation, second.Base = 9, 1
	wantError(t, send(second), "base 1 is not in force, generation 2 is")
	second.Generation, second.Base, second.Address = 9, 2, "198.18.0.5/15"
	wantError(t, send(second), "declare the whole")
	_, err := a.f.Declare(t.Context(), first)
	wantError(t, err, "older")
	if first.Peers[0].PresharedKey[0] != 0 && !bytes.Equal(first.Peers[0].PresharedKey, make([]byte, 32)) {
		t.Error("a refused request keeps its keys")
	}
}

// Whatever the request says, it is refused in one line without a key, or what it
// makes is sound.
func FuzzParse(f *testing.F) {
	id := ident.New()
	seed, err := proto.Marshal(&netdpb.FabricRequest{Generation: 2, Base: 1, OwnPublicKey: key(1), Address: "198.18.0.1/15", ListenPort: 1, ControlPort: 2, UnderlayMtu: 1500,
		Peers: []*netdpb.FabricPeer{{NodeId: id, PublicKey: key(2), PresharedKey: key('K'), Endpoint: "[2001:db8::1]:5", Address: "198.18.0.2",
			KeepaliveSeconds: 25, Next: &netdpb.FabricKey{PublicKey: key(3), PresharedKey: key('K')}}}, Removed: []string{ident.New()}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		var r netdpb.FabricRequest
		if proto.Unmarshal(b, &r) != nil || strictpb.Unknown(&r) != "" {
			return
		}
		d, err := parse(&r)
		if err != nil {
			if s := err.Error(); strings.ContainsAny(s, "\n\x00") || strings.Contains(s, "KKKK") || len(s) > 400 {
				t.Errorf("error %q", s)
			}
			return
		}
		for _, p := range r.GetPeers() {
			if !bytes.Equal(p.GetPresharedKey(), make([]byte, len(p.GetPresharedKey()))) {
				t.Error("a key stays in the request")
			}
		}
		p, _, err := emptyPlan().merge(declaration{settings: d.settings, upsert: d.upsert})
		if err != nil {
			return
		}
		if len(p.peers) != len(d.upsert) || len(p.addrs) != len(p.peers) {
			t.Errorf("%d peers, %d addresses of %d declared", len(p.peers), len(p.addrs), len(d.upsert))
		}
		for _, x := range p.peers {
			if x.psk == (psk{}) || !isHost(x.addr, d.address) || x.addr == d.address.Addr() || x.next != nil && x.next.psk == (psk{}) {
				t.Errorf("peer at %s is not sound", x.addr)
			}
		}
	})
}
