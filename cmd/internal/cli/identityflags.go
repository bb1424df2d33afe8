package cli

import (
	"github.com/spf13/pflag"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// identityFlags say what tasks are to others.
type identityFlags struct {
	none bool
	life nonNegative
}

func (i *identityFlags) add(f *pflag.FlagSet) {
	f.BoolVar(&i.none, "no-identity", false, "no workload identity, and no Workload API")
	f.Var(&i.life, "identity-life", "life of its certificates, up to 24h (default 1h)")
}

func (i *identityFlags) apply(f *pflag.FlagSet, spec *taskpb.TaskSpec) {
	if !f.Changed("no-identity") && !f.Changed("identity-life") {
		return
	}
	id := orNew(spec.Identity)
	if f.Changed("no-identity") {
		id.None = i.none
	}
	if f.Changed("identity-life") {
		id.LifeNs = int64(i.life)
	}
	if spec.Identity = id; !id.None && id.LifeNs == 0 {
		spec.Identity = nil // as if nothing had been said
	}
}
