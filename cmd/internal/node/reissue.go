package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// reissueBefore is how long before its end a leaf is replaced at start: a
// manager that slept cannot ask the others with a certificate that has expired.
const reissueBefore = time.Hour

// ownLeafCheck is how often a leader sees to it that its own leaf is the one on
// record.
const ownLeafCheck = 10 * time.Second

// reissue has this manager's own keyd certify its key again where the leaf has
// expired or is about to. The leader adopts the new leaf when it meets it. The key
// stays the one on record: the issuing CA may have been replaced meanwhile, and what
// is of a former one is good with that key alone. The next renewal brings a new one.
func (n *Node) reissue(ctx context.Context, creds *pki.Credentials) error {
	if time.Until(creds.Leaf().NotAfter) > reissueBefore {
		return nil
	}
	key, ok := creds.Key().(*ecdsa.PrivateKey)
	if !ok {
		return errors.New("re-issue this manager's certificate: its key is of another kind")
	}
	csr, err := profile.NewCSR(key, nil)
	if err != nil {
		return err
	}
	resp, err := n.keyd.SignOwn(ctx, &keydpb.SignOwnRequest{Csr: csr, Attested: creds.Attested()})
	if err != nil {
		return fmt.Errorf("re-issue this manager's certificate: %w", err)
	}
	if err := n.keepManagerLeaf(ctx, resp.GetLeaf(), key); err != nil {
		return err
	}
	n.log.Warn("the certificate had expired, or nearly; this manager re-issued it", "was", creds.Leaf().NotAfter)
	return creds.SetLeaf(resp.GetLeaf(), key)
}

// dialRaft is how the store reaches another manager, unless it was removed. It
// looks at the leaf that is met there.
func (m *managerState) dialRaft(ctx context.Context, addr string) (net.Conn, error) {
	if id, _, err := raftstore.SplitAddr(addr); err != nil {
		return nil, err
	} else if m.denied(id) {
		return nil, fmt.Errorf("node %s is no manager any more", id)
	}
	conn, err := port.RaftDialer(m.creds)(ctx, addr)
	if err != nil {
		return nil, err
	}
	if tc, ok := conn.(interface{ ConnectionState() tls.ConnectionState }); ok {
		m.met(tc.ConnectionState().PeerCertificates[0])
	}
	return conn, nil
}

// denied reports whether this manager knows that a node was removed.
func (m *managerState) denied(id string) bool {
	if !m.opened.Load() { // what stands in the store is not known yet
		return false
	}
	rec, err := pkistore.Directory{Store: m.store}.Node(id)
	return err == nil && rec != nil && (rec.GetDenied() || rec.GetRole() != profilepb.Role_ROLE_MANAGER)
}

// dropDenied cuts the raft connections of removed managers among nodes (nil: all
// there are), those that this manager dialled too.
func (m *managerState) dropDenied(nodes []string) {
	if nodes == nil {
		for _, s := range m.store.Servers() {
			nodes = append(nodes, s.ID)
		}
	}
	for _, id := range nodes {
		if m.denied(id) {
			m.store.DropPeer(id)
		}
	}
}

// met notes a leaf that another manager showed on a verified connection, where
// this manager leads and its records do not know it.
func (m *managerState) met(leaf *x509.Certificate) {
	if !m.opened.Load() || !m.store.IsLeader() {
		return
	}
	id, err := profile.NodeFromCert(leaf)
	if err != nil {
		return
	}
	rec, err := pkistore.Directory{Store: m.store}.Node(id.NodeID)
	if err != nil || !pki.Adoptable(rec, leaf) {
		return
	}
	select {
	case m.leaves <- leaf:
	default: // it will be met again
	}
}

// adoptLeaves records re-issued leaves: its own first, then those met.
func (m *managerState) adoptLeaves(ctx context.Context) error {
	own := time.NewTicker(ownLeafCheck)
	defer own.Stop()
	for leaf := m.creds.Leaf(); ; {
		err := m.store.Update(ctx, func(tx *raftstore.Tx) error { return pki.AdoptLeaf(tx, leaf) })
		if err != nil {
			m.n.log.Warn("a re-issued certificate was not recorded", "err", err)
		}
		select {
		case leaf = <-m.leaves:
		case <-own.C: // this machine slept, and re-issued its own meanwhile
			leaf = m.creds.Leaf()
		case <-ctx.Done():
			return nil
		}
	}
}
