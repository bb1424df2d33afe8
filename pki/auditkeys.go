package pki

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// AuditKeys are the keys that verify checkpoints and signed reports, those that were
// met first before others.
func AuditKeys(r raftstore.Reader) []*pkipb.AuditKey {
	return slices.SortedFunc(store.AuditKeys.All(r), func(a, b *pkipb.AuditKey) int { return cmp.Compare(a.GetMetAt(), b.GetMetAt()) })
}

// AuditKeyOf is the manager whose key it is; empty: it is the cluster's.
func AuditKeyOf(cluster string, k *pkipb.AuditKey) string {
	name, err := checkpoint.CheckKey(k.GetKey())
	if err != nil {
		return ""
	}
	return checkpoint.NodeOf(cluster, name)
}

// KeydKeyOf is the keyd key that is certified for a node; nil: none is.
func KeydKeyOf(r raftstore.Reader, id string) []byte {
	n, there := store.Nodes.Get(r, id)
	if !there {
		return nil
	}
	return CertifiedKeydKey(n)
}

func auditKeyID(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// NewAuditKeys are those of the keys that are not kept yet.
func NewAuditKeys(r raftstore.Reader, keys ...string) (fresh []string) {
	for _, k := range keys {
		if _, there := store.AuditKeys.Get(r, auditKeyID(k)); !there {
			fresh = append(fresh, k)
		}
	}
	return fresh
}

// PutAuditKeys adds those of the keys that are new, in place of the oldest of managers
// that are gone where there are too many. A checkpoint or report that somebody keeps has
// the cluster's signature: that is never without its key.
func PutAuditKeys(tx *raftstore.Tx, cluster string, now time.Time, keys ...string) error {
	fresh := NewAuditKeys(tx, keys...)
	all := AuditKeys(tx)
	room := checkpoint.MaxKeys - len(all)
	for _, k := range all {
		if room >= len(fresh) {
			break
		}
		id := AuditKeyOf(cluster, k)
		if n, there := store.Nodes.Get(tx, id); id == "" || there && !n.GetDenied() {
			continue
		}
		if err := store.AuditKeys.Delete(tx, k.GetId()); err != nil {
			return err
		}
		room++
	}
	if room < len(fresh) {
		return fmt.Errorf("there is no room for another key of the audit log: %d are kept, and each is the cluster's or of a node that is there", len(all))
	}
	for _, key := range fresh {
		k := &pkipb.AuditKey{Id: auditKeyID(key), Key: key, MetAt: now.Unix()}
		if id := AuditKeyOf(cluster, k); id != "" {
			k.KeydKey = KeydKeyOf(tx, id)
		}
		if err := store.AuditKeys.Put(tx, k); err != nil {
			return err
		}
	}
	return nil
}
