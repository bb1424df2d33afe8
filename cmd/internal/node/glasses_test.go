package node

import (
	"maps"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// TestGlassesInMetrics: who watches the figures sees that somebody broke the glass, until
// it is acknowledged and not only while it lasts.
func TestGlassesInMetrics(t *testing.T) {
	w := newCallerWorld(t)
	reg := prometheus.NewRegistry()
	reg.MustRegister(glassCollector{w.m.n})
	check := func(when string, open, active float64) {
		t.Helper()
		got := map[string]float64{}
		all, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			got[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue()
		}
		if want := map[string]float64{"redoubt_break_glass_unacknowledged": open, "redoubt_break_glass_active": active}; !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	check("nobody did", 0, 0)
	w.person(t, w.ca, "ann", time.Now(), nil)
	ann, self := roles.Principal{Kind: pkipb.Principal_KIND_PERSON, Name: "ann"}, w.m.n.self.NodeID
	w.update(t, func(tx *raftstore.Tx) error {
		_, err := roles.Bind(tx, roles.SecurityAdmin, ann, nil)
		return err
	})
	w.update(t, func(tx *raftstore.Tx) error {
		_, err := roles.Break(tx, self, "nobody is there", time.Hour)
		return err
	})
	check("under way", 1, 1)
	w.update(t, func(tx *raftstore.Tx) error { return roles.EndBreak(tx, self) })
	check("at its end", 1, 0)
	w.update(t, func(tx *raftstore.Tx) error { return roles.Acknowledge(tx, self, ann) })
	check("acknowledged", 0, 0)
}
