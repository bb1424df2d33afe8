package netd

import (
	"crypto/sha256"
	"fmt"
	"sync"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// A note is what redoubtd wants to be told again when it was started anew. It is not
// read here, is on no disk, and ends with this process as with the machine. Who may
// ask for it may declare everything else, too.
//
// None outlives a declaration that takes a peer away: a note that was made before
// would have the next redoubtd bring that peer back.
type note struct {
	mu   sync.Mutex // guards the following
	data []byte
	sum  []byte // of data; nil: there is none
}

// answer keeps the note or gives it back.
func (n *note) answer(req *netdpb.NoteRequest) *netdpb.Response {
	if len(req.GetKeep()) > maxNote {
		return refusal(fmt.Sprintf("a note of %d bytes exceeds the limit of %d", len(req.GetKeep()), maxNote))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if req.Keep != nil {
		if n.data, n.sum = nil, nil; len(req.Keep) > 0 {
			sum := sha256.Sum256(req.Keep)
			n.data, n.sum = req.Keep, sum[:]
		}
	}
	resp := &netdpb.NoteResponse{Sum: n.sum}
	if req.GetRead() {
		resp.Note = n.data
	}
	return &netdpb.Response{Result: &netdpb.Response_Note{Note: resp}}
}

// outlived ends the note where what is declared may take somebody away. It does so
// before that is in force: whoever dies in between remembers too little, not too much.
func (n *note) outlived(req *netdpb.FabricRequest) {
	if req.GetBase() != 0 && len(req.GetRemoved()) == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.data, n.sum = nil, nil
}
