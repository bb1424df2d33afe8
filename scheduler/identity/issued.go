package identity

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// issued is a certificate that this leader had signed.
type issued struct {
	identity string
	cert     *pkipb.IssuedCertificate
}

// remember keeps what keyd answered to a node's batch.
func (s *Server) remember(id string, batch *profilepb.WorkloadBatch, got *schedulerpb.IssueResponse) {
	chain := got.GetIssuer().GetCertificates()
	if len(chain) == 0 {
		return // nothing but refusals
	}
	issuer := sha256.Sum256(chain[0])
	var more []issued
	for i, doc := range got.GetDocuments() {
		leaf, err := x509.ParseCertificate(doc.GetCertificate())
		if err != nil || i >= len(batch.GetItems()) {
			continue // a token, or a refusal
		}
		more = append(more, issued{batch.Items[i].GetIdentity(),
			&pkipb.IssuedCertificate{Serial: leaf.SerialNumber.Bytes(), Issuer: issuer[:], NotAfter: leaf.NotAfter.Unix()}})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.of(id)
	n.issued = append(n.issued, more...)
	if len(n.issued) >= max(2*n.swept, 64) {
		now := time.Now().Unix()
		n.issued = slices.DeleteFunc(n.issued, func(i issued) bool { return i.cert.GetNotAfter() <= now })
		n.swept = len(n.issued)
	}
	if over := len(n.issued) - maxIssued; over > 0 {
		n.issued = slices.Clone(n.issued[over:])
		n.swept = min(n.swept, maxIssued/2)
	}
}

// wellFormed reports whether a revocation list could name all of these.
func wellFormed(certs []*schedulerpb.HeldCertificate, now time.Time) bool {
	good := func(c *schedulerpb.HeldCertificate) bool {
		serial := c.GetSerial()
		return len(serial) > 0 && len(serial) <= 20 && serial[0] != 0 && len(c.GetIssuer()) == sha256.Size &&
			c.GetExpiresAt() <= now.Add(pki.LongestSVID+skew).Unix()
	}
	return len(certs) <= maxCertificates && !slices.ContainsFunc(certs, func(c *schedulerpb.HeldCertificate) bool { return !good(c) })
}

// IssuedFor returns the certificates of an identity that have not ended, as far as
// this leader knows: what it had signed, the last to end first, and then what nodes
// claim (claimed.go), which is marked so: where a list has no room for all, no node's
// word takes it.
func (s *Server) IssuedFor(identity string) ([]*pkipb.IssuedCertificate, error) {
	return s.known(func(_, of string) bool { return of == identity })
}

// IssuedTo is IssuedFor for a node's tasks.
func (s *Server) IssuedTo(node string) ([]*pkipb.IssuedCertificate, error) {
	return s.known(func(at, _ string) bool { return at == node })
}

func (s *Server) known(wanted func(node, identity string) bool) (out []*pkipb.IssuedCertificate, err error) {
	now := time.Now().Unix()
	c := claims{signed: map[string]bool{}, of: map[string][]*schedulerpb.HeldIdentity{}}
	gone := map[string]bool{}
	s.mu.Lock()
	for id, n := range s.nodes {
		gone[id] = true // unless it is found
		for _, i := range n.issued {
			c.signed[string(i.cert.GetSerial())] = true
			if i.cert.GetNotAfter() > now && wanted(id, i.identity) {
				out = append(out, i.cert)
			}
		}
		for _, h := range n.held {
			if wanted(id, h.GetIdentity()) {
				c.of[id] = append(c.of[id], h)
			}
		}
	}
	s.mu.Unlock()
	lastFirst(out)
	var claimed []*pkipb.IssuedCertificate
	if err = s.c.Store.View(func(r *raftstore.ReadTx) error {
		for id := range gone {
			if n, ok := pkistore.Nodes.Get(r, id); ok && !n.GetDenied() {
				delete(gone, id)
			}
		}
		claimed = c.believed(r, s.c.ClusterID, now)
		return nil
	}); err != nil {
		return nil, err
	}
	s.sweep(gone, now)
	return append(out, claimed...), nil
}

// sweep forgets what has ended, and nodes that are gone once nothing is left of
// them. Until then a denied one is asked for: its removal is tried again where the
// list could not be written.
func (s *Server) sweep(gone map[string]bool, now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, n := range s.nodes {
		n.issued = slices.DeleteFunc(n.issued, func(i issued) bool { return i.cert.GetNotAfter() <= now })
		n.swept = len(n.issued)
		if !gone[id] {
			continue
		}
		n.held = slices.DeleteFunc(slices.Clone(n.held), func(h *schedulerpb.HeldIdentity) bool {
			return !slices.ContainsFunc(h.GetCertificates(), func(c *schedulerpb.HeldCertificate) bool { return c.GetExpiresAt() > now })
		})
		if len(n.issued)+len(n.held) == 0 {
			delete(s.nodes, id)
		}
	}
}

func lastFirst(certs []*pkipb.IssuedCertificate) {
	slices.SortFunc(certs, func(a, b *pkipb.IssuedCertificate) int {
		return cmp.Or(cmp.Compare(b.GetNotAfter(), a.GetNotAfter()), bytes.Compare(a.GetSerial(), b.GetSerial()))
	})
}
