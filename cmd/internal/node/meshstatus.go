package node

import (
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/mesh/peer"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// look is what there is to see of the mesh; ok: this node is part of it.
func (m *meshSide) look() (st peer.Status, ok bool) {
	m.mu.Lock()
	p, err, self := m.peers, m.err, m.self
	m.mu.Unlock()
	if !self.Mesh.IsValid() {
		return st, false
	}
	if p != nil {
		st = p.State()
	}
	st.Address = self.Mesh
	if err != nil {
		st.Degraded = append(st.Degraded, err.Error())
	}
	return st, true
}

// status is for this node's own root; nil: it is no part of the mesh.
func (m *meshSide) status() *controlpb.LocalMesh {
	st, ok := m.look()
	if !ok {
		return nil
	}
	out := &controlpb.LocalMesh{Address: st.Address.String(), Interface: st.Interface, Driver: st.Driver, Mode: st.Mode, Mtu: uint32(st.MTU),
		Degraded: st.Degraded, Repairs: st.Repairs, Dropped: st.Dropped}
	for _, p := range st.Peers {
		q := &controlpb.LocalMeshPeer{NodeId: p.NodeID, Address: p.Mesh.String(), Endpoint: p.Endpoint, ReceivedBytes: p.Received, SentBytes: p.Sent, Error: p.Err}
		if p.Handshake >= 0 {
			q.HandshakeNs = new(int64(p.Handshake))
		}
		if p.Epoch != 0 {
			q.KeyNs = new(int64(p.Age))
		}
		out.Peers = append(out.Peers, q)
	}
	return out
}

// feature is what managers are told of it. What changes all the time is not in it.
func (m *meshSide) feature() *taskpb.Feature {
	st, ok := m.look()
	if !ok {
		return nil
	}
	with := 0
	for _, p := range st.Peers {
		if p.Declared {
			with++
		}
	}
	driver := "no interface yet"
	if st.Driver != "" {
		driver = strings.TrimSpace(st.Driver + " " + st.Mode)
	}
	detail := fmt.Sprintf("%s, %d of %d tunnels have keys", driver, with, len(st.Peers))
	if len(st.Degraded) > 0 {
		detail = "degraded: " + strings.Join(st.Degraded, "; ")
	}
	return &taskpb.Feature{Name: "mesh", Present: len(st.Degraded) == 0, Detail: detail}
}

// meshCollector has the mesh's metrics. They have no label with a peer: a node has
// thousands.
type meshCollector struct{ n *Node }

var (
	meshPeersDesc    = prometheus.NewDesc("redoubt_mesh_peers", "Peers of this node, by whether their tunnel has keys.", []string{"keys"}, nil)
	meshDegradedDesc = prometheus.NewDesc("redoubt_mesh_degraded", "Number of things about the mesh that are not as they should be.", nil, nil)
	meshBytesDesc    = prometheus.NewDesc("redoubt_mesh_bytes", "Bytes through the tunnels that are there now.", []string{"direction"}, nil)
	meshDroppedDesc  = prometheus.NewDesc("redoubt_mesh_dropped_packets_total", "Packets that were not let into a tunnel or out of one.", []string{"reason"}, nil)
	meshRepairsDesc  = prometheus.NewDesc("redoubt_mesh_repairs_total", "How often something was found changed by somebody and put back.", nil, nil)
)

func (c meshCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{meshPeersDesc, meshDegradedDesc, meshBytesDesc, meshDroppedDesc, meshRepairsDesc} {
		ch <- d
	}
}

func (c meshCollector) Collect(ch chan<- prometheus.Metric) {
	m := c.n.mesh.Load()
	if m == nil {
		return
	}
	st, ok := m.look()
	if !ok {
		return
	}
	count := map[string]float64{"yes": 0, "no": 0}
	var in, out uint64
	for _, p := range st.Peers {
		in, out = in+p.Received, out+p.Sent
		if p.Declared {
			count["yes"]++
		} else {
			count["no"]++
		}
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for keys, v := range count {
		gauge(meshPeersDesc, v, keys)
	}
	gauge(meshDegradedDesc, float64(len(st.Degraded)))
	gauge(meshBytesDesc, float64(in), "received")
	gauge(meshBytesDesc, float64(out), "sent")
	for reason, v := range st.Dropped {
		ch <- prometheus.MustNewConstMetric(meshDroppedDesc, prometheus.CounterValue, float64(v), reason)
	}
	ch <- prometheus.MustNewConstMetric(meshRepairsDesc, prometheus.CounterValue, float64(st.Repairs))
}
