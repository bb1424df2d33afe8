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
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
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
// this leader knows: what it had signed, and of what a leader before it had, what
// nodes say that their tasks hold. A node is believed of tasks that are assigned to
// it, and of no certificate that this leader had signed for somebody else. What this
// leader had signed comes first, either part with the last to end first: where a list
// has no room for all, no node's word takes it.
func (s *Server) IssuedFor(identity string) ([]*pkipb.IssuedCertificate, error) {
	return s.known(func(_, of string) bool { return of == identity })
}

// IssuedTo is IssuedFor for a node's tasks.
func (s *Server) IssuedTo(node string) ([]*pkipb.IssuedCertificate, error) {
	return s.known(func(at, _ string) bool { return at == node })
}

func (s *Server) known(wanted func(node, identity string) bool) (out []*pkipb.IssuedCertificate, err error) {
	type claim struct {
		node string
		held *schedulerpb.HeldIdentity
	}
	now, signed := time.Now().Unix(), map[string]bool{}
	var claims []claim
	s.mu.Lock()
	for id, n := range s.nodes {
		for _, i := range n.issued {
			signed[string(i.cert.GetSerial())] = true
			if i.cert.GetNotAfter() > now && wanted(id, i.identity) {
				out = append(out, i.cert)
			}
		}
		for _, h := range n.held {
			if wanted(id, h.GetIdentity()) {
				claims = append(claims, claim{id, h})
			}
		}
	}
	s.mu.Unlock()
	lastFirst(out)
	var said []*pkipb.IssuedCertificate
	told := map[string]bool{}
	err = s.c.Store.View(func(r *raftstore.ReadTx) error {
		for _, c := range claims {
			t, ok := store.Tasks.Get(r, c.held.GetTaskId())
			if !ok || t.GetNodeId() != c.node {
				continue
			}
			if service, ok := store.Services.Get(r, t.GetServiceId()); !ok || Of(s.c.ClusterID, service) != c.held.GetIdentity() {
				continue
			}
			for _, h := range c.held.GetCertificates() {
				// Who makes up an issuer takes no serial number from another.
				key := string(h.GetIssuer()) + string(h.GetSerial())
				if !signed[string(h.GetSerial())] && !told[key] && h.GetExpiresAt() > now {
					told[key] = true
					said = append(said, &pkipb.IssuedCertificate{Serial: h.GetSerial(), Issuer: h.GetIssuer(), NotAfter: h.GetExpiresAt()})
				}
			}
		}
		return nil
	})
	lastFirst(said)
	return append(out, said...), err
}

func lastFirst(certs []*pkipb.IssuedCertificate) {
	slices.SortFunc(certs, func(a, b *pkipb.IssuedCertificate) int {
		return cmp.Or(cmp.Compare(b.GetNotAfter(), a.GetNotAfter()), bytes.Compare(a.GetSerial(), b.GetSerial()))
	})
}
