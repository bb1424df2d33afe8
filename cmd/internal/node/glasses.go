package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

var (
	glassesOpenDesc   = prometheus.NewDesc("redoubt_break_glass_unacknowledged", "Managers: break-glasses that nobody acknowledged yet.", nil, nil)
	glassesActiveDesc = prometheus.NewDesc("redoubt_break_glass_active", "Managers: local roots that have the rights of break-glass now.", nil, nil)
)

// glassCollector tells of break-glasses who watches figures and reads no log. A node
// without an open store says nothing: it does not know.
type glassCollector struct{ n *Node }

// Describe implements prometheus.Collector.
func (c glassCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- glassesOpenDesc
	ch <- glassesActiveDesc
}

// Collect implements prometheus.Collector.
func (c glassCollector) Collect(ch chan<- prometheus.Metric) {
	var open, active int
	if !c.n.viewStore(func(r *raftstore.ReadTx) { open, active = roles.Glasses(r) }) {
		return
	}
	ch <- prometheus.MustNewConstMetric(glassesOpenDesc, prometheus.GaugeValue, float64(open))
	ch <- prometheus.MustNewConstMetric(glassesActiveDesc, prometheus.GaugeValue, float64(active))
}
