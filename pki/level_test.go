package pki_test

import (
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/pki"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

// TestJoinOfAnOlderVersion: who would not understand the store is no manager, and
// learns why; the token keeps its use.
func TestJoinOfAnOlderVersion(t *testing.T) {
	c := newCluster(t, secretstore.Configs) // of store level 2
	tok := c.token(pki.TokenRequest{Role: manager, MaxUses: 1})
	for level := range uint32(2) {
		_, err := c.join(tok, func(r *pki.JoinRequest) { r.StoreLevel = level })
		if err == nil || !strings.Contains(err.Error(), "understands store level 1 and the cluster is at 2") {
			t.Fatalf("a manager of level %d: %v", level, err)
		}
	}
	if _, err := c.join(tok, func(r *pki.JoinRequest) { r.StoreLevel = 2 }); err != nil {
		t.Fatal(err)
	}
}
