package netd

import (
	"bytes"
	"testing"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// A note is given back as it was kept, and ends with a declaration that may take a
// peer away.
func TestNote(t *testing.T) {
	var n note
	keep := func(b []byte) *netdpb.NoteResponse {
		return n.answer(&netdpb.NoteRequest{Keep: b, Read: true}).GetNote()
	}
	if r := keep(nil); r == nil || r.Sum != nil || r.Note != nil {
		t.Fatalf("at first: %v", r)
	}
	said := []byte("what the former process knew")
	if r := keep(said); len(r.Sum) != 32 || !bytes.Equal(r.Note, said) {
		t.Fatalf("kept: %v", r)
	}
	for _, c := range []struct {
		what  string
		req   *netdpb.FabricRequest
		stays bool
	}{
		{"another peer", &netdpb.FabricRequest{Generation: 2, Base: 1, Peers: []*netdpb.FabricPeer{{}}}, true},
		{"a peer is removed", &netdpb.FabricRequest{Generation: 3, Base: 2, Removed: []string{"a"}}, false},
		{"the whole", &netdpb.FabricRequest{Generation: 4}, false},
	} {
		keep(said)
		n.outlived(c.req)
		if r := keep(nil); (len(r.Note) > 0) != c.stays || (len(r.Sum) > 0) != c.stays {
			t.Errorf("%s: %v", c.what, r)
		}
	}
	keep(said)
	if r := keep([]byte{}); r.Sum != nil || r.Note != nil {
		t.Errorf("an empty one: %v", r)
	}
	keep(said)
	if r := n.answer(&netdpb.NoteRequest{Keep: make([]byte, maxNote+1)}); r.GetError() == nil || !bytes.Equal(keep(nil).Note, said) {
		t.Errorf("one that is too large: %v", r)
	}
}
