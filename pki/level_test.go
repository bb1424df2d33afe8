package pki_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/pki"
)

// TestJoinOfAnOlderVersion: who would not understand the store is no manager, and
// learns why; the token keeps its use.
func TestJoinOfAnOlderVersion(t *testing.T) {
	c := newCluster(t)
	tok := c.token(pki.TokenRequest{Role: manager, MaxUses: 1})
	for level := range uint32(3) {
		_, err := c.join(tok, func(r *pki.JoinRequest) { r.StoreLevel = level })
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("understands store level %d and the cluster is at 3", max(level, 1))) {
			t.Fatalf("a manager of level %d: %v", level, err)
		}
	}
	if _, err := c.join(tok, func(r *pki.JoinRequest) { r.StoreLevel = 3 }); err != nil {
		t.Fatal(err)
	}
}
