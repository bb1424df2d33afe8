package cli

import (
	"github.com/spf13/pflag"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// identityFlags say what tasks are to others.
type identityFlags struct {
	none          bool
	life          nonNegative
	files, signal string
}

// identityFilesDir is where files of an identity are unless somebody says where.
const identityFilesDir = "/run/redoubt/identity"

func (i *identityFlags) add(f *pflag.FlagSet) {
	f.BoolVar(&i.none, "no-identity", false, "no workload identity, and no Workload API")
	f.Var(&i.life, "identity-life", "life of its certificates, up to 24h (default 1h)")
	f.StringVar(&i.files, "identity-files", "", "also write tls.crt, tls.key and ca.crt into this directory of the container, and replace them in time; \"\": do not")
	f.Lookup("identity-files").NoOptDefVal = identityFilesDir
	f.StringVar(&i.signal, "identity-signal", "", "signal to the container when those files were replaced; \"\": none")
}

func (i *identityFlags) apply(f *pflag.FlagSet, spec *taskpb.TaskSpec) {
	if !f.Changed("no-identity") && !f.Changed("identity-life") && !f.Changed("identity-files") && !f.Changed("identity-signal") {
		return
	}
	id := orNew(spec.Identity)
	if f.Changed("no-identity") {
		id.None = i.none
	}
	if f.Changed("identity-life") {
		id.LifeNs = int64(i.life)
	}
	if f.Changed("identity-files") {
		id.Files = i.files
	}
	if f.Changed("identity-signal") {
		id.Signal = i.signal
	}
	if spec.Identity = id; !id.None && id.LifeNs == 0 && id.Files == "" && id.Signal == "" {
		spec.Identity = nil // as if nothing had been said
	}
}
