package node

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/redoubt-cluster/redoubt/mesh/peer"
	"github.com/redoubt-cluster/redoubt/mesh/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// look is what there is to see of the mesh; ok: this node is part of it.
func (m *meshSide) look() (st peer.Status, ok bool) {
	m.mu.Lock()
	p, err, self := m.peers, m.err, m.self
	m.mu.Unlock()
	if !self.Mesh.IsValid() || m.n.env.FIPS {
		return st, false
	}
	if p != nil {
		st = p.State()
	}
	st.Address = self.Mesh
	if m.lease.ended() {
		st.Degraded = append(st.Degraded, fmt.Sprintf("no manager was heard for %v (node.mesh.lease): it has no peer until one is", m.lease.life))
	}
	if err != nil {
		st.Degraded, st.Broken = append(st.Degraded, err.Error()), true
	}
	return st, true
}

// answer is for managers, who ask on an operator's behalf.
func (m *meshSide) answer(rotate bool) (*schedulerpb.MeshState, error) {
	if m.n.env.FIPS {
		return nil, errNoMeshInFIPS
	}
	if rotate {
		m.mu.Lock()
		p, err := m.peers, m.err
		m.mu.Unlock()
		if p != nil {
			err = p.RotateKey()
		} else if err == nil {
			err = errors.New("this node has no tunnels yet")
		}
		if err != nil {
			return nil, err
		}
	}
	s := m.status()
	if s == nil {
		return nil, errors.New("this node has no address in the mesh yet")
	}
	slices.SortStableFunc(s.Peers, func(a, b *schedulerpb.MeshPeerState) int { return cmp.Compare(len(b.Degraded), len(a.Degraded)) })
	if more := len(s.Peers) - schedulerpb.MaxMeshPeers; more > 0 {
		s.Peers, s.LeftOut = s.Peers[:schedulerpb.MaxMeshPeers], uint32(more)
	}
	return s, nil
}

// status is for this node's own root; nil: it is no part of the mesh.
func (m *meshSide) status() *schedulerpb.MeshState {
	st, ok := m.look()
	if !ok {
		return nil
	}
	out := &schedulerpb.MeshState{Address: st.Address.String(), Interface: st.Interface, Driver: st.Driver, Mode: st.Mode, Mtu: uint32(st.MTU),
		Degraded: st.Degraded, Repairs: st.Repairs, Dropped: st.Dropped,
		ListenPort: uint32(st.ListenPort), PublicKey: st.PublicKey, ChangingKey: len(st.NextPublicKey) > 0, OwnKeyNs: int64(st.KeyAge)}
	if st.Unreached > 0 {
		out.Degraded = append(out.Degraded, fmt.Sprintf("%d of %d peers have no working tunnel with this node", st.Unreached, len(st.Peers)))
	}
	for _, p := range st.Peers {
		q := &schedulerpb.MeshPeerState{NodeId: p.NodeID, Address: p.Mesh.String(), Endpoint: p.Endpoint, ReceivedBytes: p.Received, SentBytes: p.Sent, Error: p.Err,
			Mtu: uint32(p.MTU), Degraded: p.Degraded}
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

// feature is what managers are told of it, who place tasks on networks where it is
// present. A peer that does not answer does not make it absent: else one dead node
// would close all others. What changes all the time is not in it.
func (m *meshSide) feature() *taskpb.Feature {
	if m.n.env.FIPS {
		return &taskpb.Feature{Name: spec.MeshFeature, Detail: spec.NoMeshInFIPS}
	}
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
	return &taskpb.Feature{Name: spec.MeshFeature, Present: !st.Broken, Detail: detail}
}

// meshCollector has the mesh's metrics. They have no label with a peer: a node has
// thousands.
type meshCollector struct{ n *Node }

var (
	meshPeersDesc    = prometheus.NewDesc("redoubt_mesh_peers", "Peers of this node, by whether their tunnel has keys.", []string{"keys"}, nil)
	meshDegradedDesc = prometheus.NewDesc("redoubt_mesh_degraded", "Number of things about the mesh that are not as they should be.", nil, nil)
	meshBytesDesc    = prometheus.NewDesc("redoubt_mesh_bytes", "Bytes through the tunnels that are there now.", []string{"direction"}, nil)
	meshDroppedDesc  = prometheus.NewDesc("redoubt_mesh_dropped_packets_total", "Packets that were not let into a tunnel or out of one.", []string{"reason"}, nil)
	meshSaidDesc     = prometheus.NewDesc("redoubt_mesh_statements_total", "What nodes say to each other of their endpoints, by what became of it.", []string{"result"}, nil)
	meshRepairsDesc  = prometheus.NewDesc("redoubt_mesh_repairs_total", "How often something was found changed by somebody and put back.", nil, nil)
	meshAgreedDesc   = prometheus.NewDesc("redoubt_mesh_exchanges_total", "How often new pre-shared keys were agreed on with a peer.", nil, nil)
	meshRefusedDesc  = prometheus.NewDesc("redoubt_mesh_refused_total", "Connections to the peers' port that were turned away.", nil, nil)
)

func (c meshCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{meshPeersDesc, meshDegradedDesc, meshBytesDesc, meshDroppedDesc, meshSaidDesc, meshRepairsDesc, meshAgreedDesc, meshRefusedDesc} {
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
	s := st.Statements
	for result, v := range map[string]uint64{"told": s.Told, "swept": s.Swept, "heard": s.Heard, "relayed": s.Relayed, "passed": s.Passed, "repeated": s.Repeated,
		"replayed": s.Replayed, "forged": s.Forged, "stale": s.Stale, "foreign": s.Foreign, "malformed": s.Malformed} {
		ch <- prometheus.MustNewConstMetric(meshSaidDesc, prometheus.CounterValue, float64(v), result)
	}
	for d, v := range map[*prometheus.Desc]uint64{meshRepairsDesc: st.Repairs, meshAgreedDesc: st.Exchanges, meshRefusedDesc: st.Refused} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
}
