package spec

import "github.com/redoubt-cluster/redoubt/secrets/render"

const (
	// MaxConfigBytes bounds the data of a config: 1000 KiB, as in Swarm, so that
	// what works there works here. It is held in memory by every manager.
	MaxConfigBytes = render.MaxBytes
	// MaxSpecBytes bounds a config with its labels once encoded: with its id it
	// must fit into one transaction of the store.
	MaxSpecBytes = 1020 << 10
	// DefaultKeep is how many versions of a secret or config are kept unless it says
	// otherwise, MaxKeep how many it may say.
	DefaultKeep = 10
	MaxKeep     = 16
)
