package pki

import (
	"bytes"
	"crypto/x509"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// A CA outside of the cluster may sign the leaves of workers. Nodes do not trust its
// root: they trust the certificate that the cluster's own root gave it, which names
// this cluster and marks it as one for workers alone. So it comes and goes as an
// issuing CA does, in one step; docs/decisions/0096 has the reasons.

// ExternalFeature is how a node says that it takes certificates below an external CA,
// and knows what its mark means: to one that does not, which is of an earlier version,
// such a chain is broken.
const ExternalFeature = "external-ca"

// inForce are the certificates of the CAs that sign nodes now.
func inForce(c *pkipb.Cluster) [][]byte {
	if c.GetExternal() == nil {
		return c.GetIssuers()
	}
	return append(slices.Clone(c.GetIssuers()), c.GetExternal().GetIssuer())
}

// SetExternal has an external CA sign workers from now on.
func SetExternal(to *pkipb.External) func(*raftstore.Tx, NextCA) error {
	return func(tx *raftstore.Tx, next NextCA) error {
		c, err := nextEpoch(tx, next)
		switch {
		case err != nil:
			return err
		case c.GetRotation() != nil:
			return ErrRotating
		case len(next.External) == 0:
			return ErrRotated
		}
		if c.GetExternal() != nil {
			addFormer(tx, c, c.External.GetIssuer())
			revokeUnlisted(tx, c)
			if otherKey(c.External.GetIssuer(), next.External) {
				endAlarms(c)
			}
		}
		c.External = proto.CloneOf(to)
		c.External.Issuer = next.External
		return store.Cluster.Put(tx, c)
	}
}

// otherKey reports whether two CAs' certificates are of different keys. Of what cannot
// be parsed it says no: alarms stay.
func otherKey(a, b []byte) bool {
	x, err := x509.ParseCertificate(a)
	y, other := x509.ParseCertificate(b)
	return err == nil && other == nil && !bytes.Equal(x.RawSubjectPublicKeyInfo, y.RawSubjectPublicKeyInfo)
}

// RemoveExternal has the cluster's own issuing CA sign workers again.
func RemoveExternal(tx *raftstore.Tx, next NextCA) error {
	c, err := nextEpoch(tx, next)
	switch {
	case err != nil:
		return err
	case c.GetRotation() != nil:
		return ErrRotating
	case c.GetExternal() == nil || len(next.External) != 0:
		return ErrRotated
	}
	addFormer(tx, c, c.External.GetIssuer())
	revokeUnlisted(tx, c)
	endAlarms(c)
	c.External = nil
	return store.Cluster.Put(tx, c)
}

// orderKeyChanged is why an external CA certifies nothing after a manager left, from
// that moment on: it knows the key of orders of before.
const orderKeyChanged = "the key of the cluster's orders is another one since a manager left: " +
	"give the CA what `redoubt ca external provisioner` prints, in the place of the one of before"

// strangeOrders notes that no order that is made from now on is one the external CA
// knows the key of.
func strangeOrders(tx *raftstore.Tx, c *pkipb.Cluster) {
	if e := c.GetExternal(); e != nil {
		e.Failure, e.FailedAt = orderKeyChanged, tx.Now().Unix()
	}
}

// ExternalNews reports whether what became of an order to the external CA is to be
// written down: the first that failed, and the first that did not after it. What
// fails a moment after either is not: it stands when it still fails a while later.
// An order that the keyset of another epoch made says nothing: its key, or the CA, may
// be another one now.
func ExternalNews(c *pkipb.Cluster, epoch uint64, failure string, now time.Time) bool {
	e := c.GetExternal()
	switch failure = oneline.Text(failure, maxFailure); {
	case e == nil || epoch != KeysetEpoch(c) || e.GetFailure() == failure:
		return false
	case failure == "":
		return true
	}
	return now.Sub(time.Unix(e.GetFailedAt(), 0)) >= failureInterval
}

// NoteExternal writes down why the external CA certified nothing; "" says that it
// does again.
func NoteExternal(tx *raftstore.Tx, epoch uint64, failure string) error {
	c, err := store.GetCluster(tx)
	if err != nil || !ExternalNews(c, epoch, failure, tx.Now()) {
		return err
	}
	c = proto.CloneOf(c)
	c.External.Failure, c.External.FailedAt = oneline.Text(failure, maxFailure), tx.Now().Unix()
	return store.Cluster.Put(tx, c)
}
