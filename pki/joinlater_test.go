package pki_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// A leader whose keyd signs no more for now says so to who holds a token, and
// when to come again.
func TestJoinWhileSignerIsBusy(t *testing.T) {
	c := newCluster(t)
	tok := c.token(pki.TokenRequest{Role: manager})
	c.whenSealing(func() error { return &pki.SignerBusy{Err: errors.New("no more of this kind")} })
	_, err := c.join(tok)
	var later *pki.LaterError
	if !errors.As(err, &later) || later.After != 10*time.Second ||
		!strings.HasSuffix(err.Error(), ": keyd of the leader was asked for too many certificates or keys: try again in 10s") {
		t.Errorf("%v", err)
	}
	c.whenSealing(nil)
	if _, err := c.join(tok); err != nil {
		t.Errorf("when it was tried again: %v", err)
	}
}

// A connection that is cut is tried again, and what that may have meant is said.
func TestJoinIsCut(t *testing.T) {
	c := newCluster(t)
	patient := func(q *pki.JoinRequest) { q.Patience = time.Minute }
	tries := 0
	c.whenSealing(func() error {
		if tries++; tries == 1 {
			c.port.LeaderChanged(port.Leader{})
			return errors.New("cut")
		}
		return nil
	})
	if _, err := c.join(c.token(pki.TokenRequest{Role: manager}), patient); err != nil || tries != 2 {
		t.Errorf("a join cut off before it was admitted: %v, %d tries", err, tries)
	}
	// The use is counted here and not by the join itself: whether that still comes
	// to its commit once the call is cut is chance.
	tok := c.token(pki.TokenRequest{Role: manager})
	c.whenSealing(func() error {
		defer c.port.LeaderChanged(port.Leader{})
		return c.store.Update(t.Context(), func(tx *raftstore.Tx) error {
			rec, _ := store.Tokens.Get(tx, tok.ID())
			rec = proto.CloneOf(rec)
			rec.Uses++
			return store.Tokens.Put(tx, rec)
		})
	})
	if _, err := c.join(tok, patient); err == nil ||
		!strings.Contains(err.Error(), "used up") || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("a join cut off after it was admitted: %v", err)
	}
}
