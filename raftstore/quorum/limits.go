package quorum

import (
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
)

const (
	// MaxVoters is the most managers that vote.
	MaxVoters = raftstore.MaxManagers
	// MinVoters is what demotion leaves at least.
	MinVoters = 3

	// maxTrailing is how many entries a healthy server may be behind.
	maxTrailing = 256
	// silence is how long a healthy server may be silent.
	silence = 3 * time.Second
	// never is the silence of a server that was not heard of in this term.
	never = 24 * time.Hour
	// stableTime is how long a server must have been healthy to be given a vote.
	stableTime = time.Second
	// demoteAfter is how long a voter must have been silent to lose its vote: a
	// reboot with its unlock is over by then.
	demoteAfter = 5 * time.Minute

	// updateInterval is how often health is looked at, and reconcileInterval how
	// often votes are.
	updateInterval    = 250 * time.Millisecond
	reconcileInterval = 500 * time.Millisecond
	// stepTimeout bounds one change of the configuration.
	stepTimeout = 10 * time.Second
)
