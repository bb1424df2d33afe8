package control

import "time"

const (
	maxParallel = 8                // checks at a time
	maxTime     = 20 * time.Second // for one check
	maxEvidence = 20               // lines of one result
	maxLine     = 240              // bytes of one line
	maxProcFile = 1 << 20          // bytes of one file of /proc

	shownHash = 8 // bytes of a root's SHA-256

	// runtimeTime is longer than the runtime has rights in a container: from when it
	// enters until it runs what it is to run there.
	runtimeTime = 2 * time.Second

	piece = 256 << 10 // bytes of a file that are looked at together
)

const day = 24 * time.Hour

// What is old.
const (
	maxBackupAge  = 7 * day
	maxUnsigned   = 5 * time.Minute // the leader has the log signed each minute
	maxUnseen     = 2 * time.Minute // the leader shows witnesses each checkpoint
	maxWordAge    = 3 * time.Hour   // and the same one each hour
	maxTokenAge   = 7 * day
	maxSlotAge    = 365 * day
	maxSecretAge  = 365 * day
	maxStoreKey   = 120 * day // a manager renews it after 90 by itself
	maxIssuerAge  = 45 * day  // the leader replaces it after 30
	minRootLeft   = 365 * day
	minIssuerLeft = 90 * day
	maxReplacing  = 7 * day
)

// safeGroup is the key exchange that a recording for a quantum computer is worth
// nothing of.
const safeGroup = "X25519MLKEM768"

const (
	minManagers = 3
	maxManagers = 5               // votes: more make changes slower, and are more to break in at
	maxClock    = 5 * time.Second // a clock is off by no more

	// Ports below are those that only root may listen on by default.
	firstFreePort = 1024
)
