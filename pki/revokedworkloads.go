package pki

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// ListIdentity has certificates that were issued for a denied identity stand on the
// revocation list, in a transaction after the one that denied it: what is issued in
// between is known by then. Of an identity that is not denied none is listed.
func ListIdentity(tx *raftstore.Tx, id string, certs []*pkipb.IssuedCertificate) error {
	rec, ok := store.DeniedIdentities.Get(tx, id)
	if !ok || rec.GetAllowedAt() != 0 {
		return nil
	}
	listed := withListed(tx, rec.GetCertificates(), certs)
	if sameCertificates(listed, rec.GetCertificates()) {
		return nil
	}
	rec = proto.CloneOf(rec)
	rec.Certificates = listed
	return store.DeniedIdentities.Put(tx, rec)
}

// ListWorkloads is ListIdentity for what the tasks of a denied node held.
func ListWorkloads(tx *raftstore.Tx, node string, certs []*pkipb.IssuedCertificate) error {
	n, ok := store.Nodes.Get(tx, node)
	if !ok || !n.GetDenied() || tx.Level() < revocationLevel {
		return nil
	}
	listed := withListed(tx, n.GetWorkloadCertificates(), certs)
	if sameCertificates(listed, n.GetWorkloadCertificates()) {
		return nil
	}
	n = proto.CloneOf(n)
	n.WorkloadCertificates = listed
	return store.Nodes.Put(tx, n)
}

// withListed adds to what is listed what is not, in its order, as far as there is room on
// a list. What a node merely claims stands behind all that is known to be issued, which
// takes its place. It takes two CAs' certificates of one serial number for two: who makes up
// an issuer keeps nobody else's off.
func withListed(tx *raftstore.Tx, old, more []*pkipb.IssuedCertificate) []*pkipb.IssuedCertificate {
	seen := map[string]bool{}
	var out []*pkipb.IssuedCertificate
	for _, claimed := range []bool{false, true} {
		for _, c := range slices.Concat(old, more) {
			if key := string(c.GetIssuer()) + string(c.GetSerial()); c.GetClaimed() == claimed && !seen[key] && c.GetNotAfter() > tx.Now().Unix() {
				seen[key] = true
				out = append(out, c)
			}
		}
	}
	return out[:min(len(out), maxListed)]
}

func sameCertificates(a, b []*pkipb.IssuedCertificate) bool {
	return slices.EqualFunc(a, b, func(a, b *pkipb.IssuedCertificate) bool { return proto.Equal(a, b) })
}

// workloadsListed yields the certificates of workloads that are on record as
// revoked, and since when, Unix seconds.
func workloadsListed(r raftstore.Reader, yield func(c *pkipb.IssuedCertificate, at int64)) {
	for rec := range store.DeniedIdentities.All(r) {
		for _, c := range rec.GetCertificates() {
			yield(c, rec.GetDeniedAt())
		}
	}
	for n := range store.Nodes.All(r) {
		if !n.GetDenied() {
			continue
		}
		for _, c := range n.GetWorkloadCertificates() {
			yield(c, n.GetDeniedAt())
		}
	}
}

// forgetListed drops lists of certificates of which the last has ended.
func forgetListed(tx *raftstore.Tx) error {
	for _, rec := range endedIdentities(tx, tx.Now().Unix()) {
		rec = proto.CloneOf(rec)
		rec.Certificates = nil
		if err := store.DeniedIdentities.Put(tx, rec); err != nil {
			return err
		}
	}
	for _, n := range endedNodes(tx, tx.Now().Unix()) {
		n = proto.CloneOf(n)
		n.WorkloadCertificates = nil
		if err := store.Nodes.Put(tx, n); err != nil {
			return err
		}
	}
	return nil
}

func endedIdentities(r raftstore.Reader, now int64) (out []*pkipb.DeniedIdentity) {
	for rec := range store.DeniedIdentities.All(r) {
		if allEnded(rec.GetCertificates(), now) {
			out = append(out, rec)
		}
	}
	return out
}

func endedNodes(r raftstore.Reader, now int64) (out []*pkipb.Node) {
	for n := range store.Nodes.All(r) {
		if allEnded(n.GetWorkloadCertificates(), now) {
			out = append(out, n)
		}
	}
	return out
}

// allEnded reports whether there are certificates, and none is good any more.
func allEnded(certs []*pkipb.IssuedCertificate, now int64) bool {
	good := func(c *pkipb.IssuedCertificate) bool { return c.GetNotAfter() > now }
	return len(certs) > 0 && !slices.ContainsFunc(certs, good)
}
