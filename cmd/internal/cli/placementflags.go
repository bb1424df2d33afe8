package cli

import (
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// placementFlags say where tasks go, of those nodes that could run them. Service create
// and update share them.
type placementFlags struct {
	prefs, prefsRm []string
	strategy       strategy
	priority       uint32
	rebalance      rebalance
	pause          nonNegative
}

func (p *placementFlags) add(f *pflag.FlagSet, update bool) {
	if update {
		f.StringArrayVar(&p.prefs, "placement-pref-add", nil, "spread tasks over one more level, as spread=node.labels.zone")
		f.StringArrayVar(&p.prefsRm, "placement-pref-rm", nil, "spread tasks over that no more")
	} else {
		f.StringArrayVar(&p.prefs, "placement-pref", nil, "spread tasks over nodes, as spread=node.labels.zone; several are levels, the widest first")
	}
	f.Var(&p.strategy, "placement-strategy", "spread, bin-pack (fill one node after the other), or default (the cluster's)")
	f.Uint32Var(&p.priority, "priority", 0, "0 to 1000: where there is no room, tasks of lower ones end for it")
	f.Var(&p.rebalance, "rebalance", "auto: move tasks, one at a time, when nodes come; manual: only when asked to (default manual)")
	f.Var(&p.pause, "rebalance-pause", "with --rebalance auto, time between two moves (default 1m)")
}

// apply puts the flags that were given into sp.
func (p *placementFlags) apply(f *pflag.FlagSet, sp *schedulerpb.ServiceSpec) error {
	t := sp.Task
	for _, list := range []*[]string{&p.prefs, &p.prefsRm} {
		for i, text := range *list {
			pref, err := spec.ParsePreference(text)
			if err != nil {
				return usagef("%v", err)
			}
			(*list)[i] = pref.String() // as it is stored
		}
	}
	t.Preferences = changeList(t.Preferences, p.prefs, p.prefsRm)
	if f.Changed("placement-strategy") {
		t.Strategy = p.strategy.value()
	}
	if f.Changed("priority") {
		t.Priority = p.priority
	}
	if f.Changed("rebalance") {
		if sp.Rebalance = nil; p.rebalance == "auto" {
			sp.Rebalance = &schedulerpb.RebalanceConfig{Automatic: true}
		}
	}
	if f.Changed("rebalance-pause") {
		if !sp.GetRebalance().GetAutomatic() {
			return usagef("--rebalance-pause %v: it is for --rebalance auto", time.Duration(p.pause))
		}
		sp.Rebalance.PauseNs = int64(p.pause)
	}
	return nil
}

type strategy string

func (s *strategy) Type() string   { return "spread|bin-pack|default" }
func (s *strategy) String() string { return string(*s) }
func (s *strategy) Set(text string) error {
	switch text {
	case "spread", "bin-pack", "default":
		*s = strategy(text)
		return nil
	}
	return fmt.Errorf("use spread, bin-pack or default")
}

func (s strategy) value() taskpb.Strategy {
	switch s {
	case "spread":
		return spec.Spread
	case "bin-pack":
		return spec.BinPack
	}
	return taskpb.Strategy_STRATEGY_UNSPECIFIED
}

type rebalance string

func (r *rebalance) Type() string   { return "auto|manual" }
func (r *rebalance) String() string { return string(*r) }
func (r *rebalance) Set(text string) error {
	switch text {
	case "auto", "manual":
		*r = rebalance(text)
		return nil
	}
	return fmt.Errorf("use auto or manual")
}
