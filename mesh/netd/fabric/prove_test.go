package fabric

import (
	"bytes"
	"context"
	"testing"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// Two nodes make the same tag for their keys, and nobody else does.
func TestProve(t *testing.T) {
	ctx := context.Background()
	node := func() *Fabric {
		f, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		if _, err := f.Rotate(ctx); err != nil { // makes both keys
			t.Fatal(err)
		}
		return f
	}
	a, b, c := node(), node(), node()
	tag := func(f *Fabric, own, peer *secret, what string) []byte {
		t.Helper()
		r, err := f.Prove(&netdpb.FabricProveRequest{Proofs: []*netdpb.FabricProof{{OwnPublicKey: own.public[:], PeerPublicKey: peer.public[:], Context: []byte(what)}}})
		if err != nil {
			t.Fatal(err)
		}
		return r.Tags[0]
	}
	is := tag(a, a.current, b.current, "a to b")
	if len(is) != 32 || !bytes.Equal(is, tag(b, b.current, a.current, "a to b")) || !bytes.Equal(tag(a, a.next, b.current, "x"), tag(b, b.current, a.next, "x")) {
		t.Error("the two do not make the same")
	}
	for name, other := range map[string][]byte{
		"another context": tag(b, b.current, a.current, "b to a"),
		"another key":     tag(b, b.next, a.current, "a to b"),
		"another node":    tag(c, c.current, a.current, "a to b"),
	} {
		if bytes.Equal(is, other) {
			t.Errorf("%s makes the same", name)
		}
	}
	for name, p := range map[string]*netdpb.FabricProof{
		"another's key as its own": {OwnPublicKey: b.current.public[:], PeerPublicKey: c.current.public[:], Context: []byte("x")},
		"no context":               {OwnPublicKey: a.current.public[:], PeerPublicKey: b.current.public[:]},
		"a long context":           {OwnPublicKey: a.current.public[:], PeerPublicKey: b.current.public[:], Context: make([]byte, maxProofContext+1)},
		"a short key":              {OwnPublicKey: a.current.public[:], PeerPublicKey: b.current.public[:31], Context: []byte("x")},
		"the zero point":           {OwnPublicKey: a.current.public[:], PeerPublicKey: make([]byte, 32), Context: []byte("x")},
		"a point of low order":     {OwnPublicKey: a.current.public[:], PeerPublicKey: append([]byte{1}, make([]byte, 31)...), Context: []byte("x")},
	} {
		if r, err := a.Prove(&netdpb.FabricProveRequest{Proofs: []*netdpb.FabricProof{p}}); err == nil {
			t.Errorf("%s: %v", name, r)
		}
	}
	if _, err := a.Prove(&netdpb.FabricProveRequest{Proofs: make([]*netdpb.FabricProof, maxProofs+1)}); err == nil {
		t.Error("too many at once")
	}
}
