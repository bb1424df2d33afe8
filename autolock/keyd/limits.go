package keyd

import (
	"time"

	"github.com/redoubt-cluster/redoubt/pki/profile"
)

const (
	// maxConns bounds the connections of one socket. redoubtd needs four: calls, calls
	// that ask the TPM, WaitUnlocked, Watch.
	maxConns = 64

	// maxRequest bounds a request in bytes. The largest carry two certificate
	// requests, a chain, or a slot set.
	maxRequest = 256 << 10

	// tpmTime bounds one use of the TPM, from waiting for it on. The slowest, making
	// an RSA key, takes some ten seconds; the rest one or two.
	tpmTime = time.Minute

	// writeTimeout bounds how long an answer may take to be read.
	writeTimeout = 10 * time.Second

	// maxSaid bounds an error that a caller is told, in bytes.
	maxSaid = 4 << 10

	// maxState bounds the state file in bytes.
	maxState = 256 << 10

	// maxSeedFile bounds the file with a seed of this manager's own.
	maxSeedFile = 1 << 10

	// shareLife is how long shares are kept after the last one came.
	shareLife = 15 * time.Minute

	// maxSealedShare bounds a share that was sealed elsewhere.
	maxSealedShare = 4 << 10

	// maxTicket bounds the ticket of a manager that others release.
	maxTicket = 1 << 10

	// maxSealedKeyset bounds a keyset in transit, sealed.
	maxSealedKeyset = 64 << 10

	// maxSealedLeaf bounds a sealed manager leaf key.
	maxSealedLeaf = 4 << 10

	// maxJournal is the size at which a journal file is set aside and a new one
	// begun; keepJournals is how many of those are kept.
	maxJournal   = 8 << 20
	keepJournals = 16

	// lockedMemory is what keyd must be able to lock: its buffers with their
	// guard pages and room for those of one call.
	lockedMemory = 128 << 10

	// maxManagers bounds the managers a keyset is sealed to at once.
	maxManagers = 64

	// A keyset remembers the issuing CAs and the keyd keys of this many rotations.
	maxFormer  = profile.MaxFormer
	maxRetired = 128

	// maxRead is how many lines of the journal one answer has, and maxRefused how many
	// calls are written down at once.
	maxRead, maxRefused = 256, 256
	// backwardBlock is what is read of a journal's file at once, from its end on, and
	// maxLine bounds a line of it.
	backwardBlock = 64 << 10
	maxLine       = 1 << 20
	// maxJournalled bounds the keys that one call asks the journal for.
	maxJournalled = 1024

	// maxOrders bounds the certificates that external CAs are asked for at a time, and
	// orderLife how long one may take. maxExternal bounds the URL of such a CA and the
	// name of its provisioner; externalBackdate how old its leaves may be at birth.
	maxOrders        = 4096
	orderLife        = time.Minute
	maxExternal      = 256
	externalBackdate = time.Hour

	// maxSecretKeys bounds the keys of secrets in one call.
	maxSecretKeys = 128

	// maxVersion bounds a version's text.
	maxVersion = 128

	// recoveryTime is how long a recovery may take from the key on.
	recoveryTime = 2 * time.Minute

	// maxRevoked bounds the certificates on one revocation list, and maxSerial the
	// bytes of a serial number (RFC 5280).
	maxRevoked = 6000
	maxSerial  = 20

	// maxLogProof bounds the hashes of a proof about the audit log, whose size is
	// below 2^63.
	maxLogProof = 64

	// maxBatchAge is how far apart a node's clock and this manager's may be, and for
	// how long what a node signed is taken.
	maxBatchAge = 5 * time.Minute

	// maxReplays bounds the joins remembered to refuse a second use.
	maxReplays = 1 << 16
)

const (
	// rootLife is the life of the root.
	rootLife = 10 * 365 * 24 * time.Hour

	// issuingLife equals the root's. A shorter one would be safer only together
	// with rotation: the issuing key lies beside the root's in one keyset, so it
	// can not be lost alone, and an issuing CA that expires before it can be
	// replaced ends the cluster.
	issuingLife = rootLife

	// caBackdate covers the backdate of the leaves signed right after.
	caBackdate = time.Hour

	// crlLife is how long a revocation list is good: redoubtd has one signed each
	// day, and a leader may be hard to find for two. crlBackdate covers clocks of
	// readers that are behind.
	crlLife     = 3 * 24 * time.Hour
	crlBackdate = 5 * time.Minute

	// renewGrace is how long after its end a worker's leaf may still be renewed.
	renewGrace = 30 * 24 * time.Hour

	minWorkerLeaf = time.Hour
)

// Bounds of join tokens.
const (
	maxManagerToken = 24 * time.Hour
	maxWorkerToken  = 30 * 24 * time.Hour
	maxWorkerUses   = 10_000
)

// maxInvitation bounds for how long an invitation can be taken.
const maxInvitation = 7 * 24 * time.Hour

// Rates that a verb may be used at: a burst, and one more every interval.
var (
	mintRate = rate{burst: 120, every: time.Second}
	// What gives somebody the keyset: tokens of managers, keysets, backups.
	managerRate = rate{burst: 16, every: 10 * time.Second}
	// Slot sets: each costs the journal and the disk a write. They have a rate of
	// their own, so that changes of the slots do not hold up a manager's removal.
	resealRate = rate{burst: 16, every: 10 * time.Second}
	// Certificates and tokens of workloads.
	workloadRate = rate{burst: 20_000, every: 250 * time.Microsecond}
	// Keys of secrets that are opened for nodes, and those that a rotation seals
	// anew: neither waits for the other.
	secretRate = rate{burst: 20_000, every: time.Millisecond}
	rewrapRate = rate{burst: 20_000, every: time.Millisecond}
	issueRate  = rate{burst: 2000, every: 5 * time.Millisecond}
	crlRate    = rate{burst: 64, every: time.Second}
	// Checkpoints of the audit log: each costs the disk a write.
	checkpointRate = rate{burst: 64, every: time.Second}
	// Compliance reports: each has a line of the journal.
	reportRate  = rate{burst: 16, every: 10 * time.Second}
	releaseRate = rate{burst: 16, every: 2 * time.Second}
	denialRate  = rate{burst: 100, every: time.Second} // journal lines of refusals
	refusalRate = rate{burst: 256, every: time.Second} // and of what redoubtd refused
)

// Wrong keys: the first few cost nothing, then the wait doubles.
const (
	freeTries    = 5
	firstBackoff = time.Second
	maxBackoff   = 30 * time.Second
)
