package authz

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// directory is a table of node records whose changes are pushed by the test.
type directory struct {
	mu      sync.Mutex
	nodes   map[string]*pkipb.Node
	err     error
	changes chan []string
}

func newDirectory() *directory {
	return &directory{nodes: map[string]*pkipb.Node{}, changes: make(chan []string)}
}

func (d *directory) Node(id string) (*pkipb.Node, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.nodes[id], d.err
}

func (d *directory) set(n *pkipb.Node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nodes[n.GetId()] = n
}

func (d *directory) Changes(ctx context.Context, changed func([]string)) error {
	changed(nil)
	for {
		select {
		case ids := <-d.changes:
			changed(ids)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// node makes a verified peer and its record.
func (d *directory) node(role profilepb.Role) *Peer {
	spki := []byte(ident.New())
	id := profile.Identity{ClusterID: ident.New(), NodeID: ident.New(), Role: role, SPKI: spki}
	n := &pkipb.Node{Id: id.NodeID, Role: role, LeafSpki: spki}
	if role == profilepb.Role_ROLE_BOOT {
		n.Role, n.LeafSpki, n.BootSpki = profilepb.Role_ROLE_MANAGER, []byte("leaf"), spki
	}
	d.set(n)
	return &Peer{Identity: id, Leaf: &x509.Certificate{NotAfter: time.Now().Add(time.Hour)}}
}

func over(info credentials.AuthInfo) context.Context {
	return peer.NewContext(context.Background(), &peer.Peer{Addr: &net.TCPAddr{}, AuthInfo: info})
}

func overTLS(alpn string, p *Peer) context.Context {
	return over(&ConnInfo{TLSInfo: tlsInfo(tls.ConnectionState{NegotiatedProtocol: alpn}), Peer: p})
}
