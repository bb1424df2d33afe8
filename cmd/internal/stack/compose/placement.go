package compose

import (
	"math"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
)

// placement maps what a service has of ours about where its tasks go.
func (m *mapper) placement(s types.ServiceConfig, sp *schedulerpb.ServiceSpec) {
	at := []string{"services", s.Name}
	given, ok := extension[map[string]any](m, at, s.Extensions, "x-redoubt-placement")
	if !ok {
		return
	}
	at = under(at, "x-redoubt-placement")
	switch text, ok := extension[string](m, at, given, "strategy"); {
	case !ok:
	case text == "spread":
		sp.Task.Strategy = spec.Spread
	case text == "bin-pack":
		sp.Task.Strategy = spec.BinPack
	default:
		m.wrong(under(at, "strategy"), "%q: use spread or bin-pack", text)
	}
	if n, ok := extension[int](m, at, given, "priority"); ok {
		if n < 0 || n > math.MaxInt32 {
			m.wrong(under(at, "priority"), "%d: use 0 to %d", n, spec.MaxPriority)
		}
		sp.Task.Priority = uint32(n)
	}
	switch text, ok := extension[string](m, at, given, "rebalance"); {
	case !ok, text == "manual":
	case text == "auto":
		sp.Rebalance = &schedulerpb.RebalanceConfig{Automatic: true}
	default:
		m.wrong(under(at, "rebalance"), "%q: use auto or manual", text)
	}
	if text, ok := extension[string](m, at, given, "rebalance-pause"); ok {
		d, err := time.ParseDuration(text)
		switch {
		case err != nil || d < 0:
			m.wrong(under(at, "rebalance-pause"), "%q: write a duration, as 1m", text)
		case sp.Rebalance == nil:
			m.wrong(under(at, "rebalance-pause"), "it is for rebalance: auto")
		default:
			sp.Rebalance.PauseNs = int64(d)
		}
	}
}
