package control_test

import (
	"slices"
	"strings"
	"testing"

	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
)

// A manager that was away until its issuing CA was forgotten keeps nobody from taking
// another one out; status says what to do with it.
func TestLeavingDespiteForgottenManager(t *testing.T) {
	w := newLeaveWorld(t)
	lost, there := w.addNode("manager-3", true), w.addNode("manager-4", true)
	for _, id := range []string{lost, there} {
		w.certify(id)
		w.sessions = append(w.sessions, dispatcher.SessionInfo{NodeID: id})
	}
	w.change(lost, func(n *pkipb.Node) { n.LeafIssuer = make([]byte, 32) })
	if _, err := w.remove("manager-2", newSlot()); err != nil {
		t.Fatal(err)
	}
	_ = w.store.View(func(r *raftstore.ReadTx) error {
		for id, want := range map[string]bool{w.manager: true, there: true, lost: false} {
			if _, ok := autolockstore.Keysets.Get(r, id); ok != want {
				t.Errorf("manager %s was given the next keyset: %t", id, ok)
			}
		}
		return nil
	})
	st, err := w.api.GetStatus(t.Context(), &controlpb.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, s := range st.GetWarnings() {
		if strings.Contains(s, "away too long") {
			said = append(said, s)
		}
	}
	if len(said) != 1 || !strings.Contains(said[0], "manager manager-3") || !strings.Contains(said[0], "`redoubt node rm "+lost+"`") {
		t.Errorf("status says %q", said)
	}
	if _, err := w.remove("manager-3", newSlot()); err != nil {
		t.Errorf("it cannot be taken out itself: %v", err)
	}
	if st, err = w.api.GetStatus(t.Context(), &controlpb.GetStatusRequest{}); err != nil || slices.ContainsFunc(st.GetWarnings(), func(s string) bool { return strings.Contains(s, "away too long") }) {
		t.Errorf("taken out, it is still warned of: %v", err)
	}
}
