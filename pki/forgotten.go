package pki

import (
	"bytes"
	"slices"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
)

// Forgotten returns whether a node's certificate is of an issuing CA that was replaced
// so often since that it is on no list any more: nobody takes such a certificate, so
// the node can not come back by itself, and a manager gets no further keyset.
func Forgotten(c *pkipb.Cluster) func(*pkipb.Node) bool {
	known := HashesOf(slices.Concat(c.GetIssuers(), c.GetFormerIssuers()))
	return func(n *pkipb.Node) bool {
		_, ok := slices.BinarySearchFunc(known, n.GetLeafIssuer(), bytes.Compare)
		return !ok && len(n.GetLeafIssuer()) > 0
	}
}
