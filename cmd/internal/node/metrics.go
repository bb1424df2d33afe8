package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/peercred"
	"github.com/redoubt-cluster/redoubt/internal/version"
	"github.com/redoubt-cluster/redoubt/raftstore"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

// serveHTTP answers /metrics, /healthz and /readyz on the metrics socket until
// ctx ends, to root alone. Health is that this process answers; ready is that the node does
// its work, with the reason where it does not.
func (n *Node) serveHTTP(ctx context.Context, l net.Listener) error {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gauge := func(name, help string, value func(selfStatus) float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "redoubt", Name: name, Help: help},
			func() float64 { return value(n.status()) }))
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "redoubt", Name: "build_info", Help: "1, labelled with the version.",
		ConstLabels: prometheus.Labels{"version": version.String()}})
	info.Set(1)
	reg.MustRegister(info)
	gauge("node_phase", "1 in no cluster, 2 locked, 3 starting, 4 active, 6 no quorum, 7 broken, 8 removed.", func(s selfStatus) float64 { return float64(s.phase) })
	gauge("agent_session", "1 while the agent has a session with a manager.", func(s selfStatus) float64 { return number(s.session) })
	gauge("raft_leader", "1 while this manager leads.", func(s selfStatus) float64 { return number(s.leader) })
	gauge("raft_term", "Term of the store this manager is in: it grows with every election.", func(s selfStatus) float64 { return float64(s.term) })
	gauge("raft_applied_index", "Last entry of the store this manager applied.", func(s selfStatus) float64 { return float64(s.applied) })
	gauge("leaf_not_after_seconds", "Unix time at which the node's certificate ends.", func(s selfStatus) float64 { return float64(s.leafNotAfter) })
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "redoubt", Name: "secrets_oldest_change_seconds",
		Help: "Managers: Unix time at which the secret was changed that was changed longest ago; 0: there is none."}, func() float64 { return float64(n.oldestSecret()) / 1e9 }))

	reg.MustRegister(meshCollector{n}, glassCollector{n})

	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := n.status().ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		srv.Close()
	}()
	err := srv.Serve(peercred.Listener(l, func(err error) { n.log.Warn("refused a caller on the metrics socket", "reason", err) }, 0))
	if errors.Is(err, http.ErrServerClosed) {
		<-stopped
		return ctx.Err()
	}
	return err
}

// oldestSecret is when the data was made that is the oldest in use, in nanoseconds of
// Unix time; 0 where this node has no store or the store no secret.
func (n *Node) oldestSecret() (at int64) {
	n.viewStore(func(r *raftstore.ReadTx) { at = secretstore.Oldest(r) })
	return at
}

// viewStore has f read this manager's store; false where there is none, or none any more.
func (n *Node) viewStore(f func(*raftstore.ReadTx)) bool {
	n.mu.Lock()
	m, ok := n.live.(*managerState)
	n.mu.Unlock()
	return ok && m.store.View(func(r *raftstore.ReadTx) error { f(r); return nil }) == nil
}

// selfStatus is a copy of what the node knows of itself.
type selfStatus struct {
	phase        controlpb.NodePhase
	manager      bool
	leader       bool
	leaderAddr   string
	session      bool
	term         uint64
	applied      uint64
	leafNotAfter int64
	message      string
	// trouble is why the agent has no session.
	trouble string
}

// ready returns why the node does not do its work.
func (s selfStatus) ready() error {
	switch {
	case s.phase == controlpb.NodePhase_NODE_PHASE_LOCKED:
		return errors.New("locked")
	case s.phase != controlpb.NodePhase_NODE_PHASE_ACTIVE:
		return errors.New("not active: " + s.message)
	case s.manager && s.leaderAddr == "":
		return errors.New("no leader: a majority of managers must be up and unlocked")
	case !s.session:
		return errors.New("no session with a manager")
	}
	return nil
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
