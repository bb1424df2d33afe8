package control

import "time"

const (
	// updateTimeout bounds how long a read or a write waits for the quorum.
	updateTimeout = 15 * time.Second

	// resolveTimeout bounds how long a registry is waited for, and
	// shortResolveTimeout where workers have an image of the name.
	resolveTimeout      = 10 * time.Second
	shortResolveTimeout = 4 * time.Second

	// meshKeyTimeout is how long a node is waited for that changes its WireGuard
	// key, of which it is asked every meshKeyPoll.
	meshKeyTimeout = 50 * time.Second
	meshKeyPoll    = 250 * time.Millisecond

	// maxMeshNodes is how many nodes are asked for their tunnels at a time.
	maxMeshNodes = 64

	// promoteTimeout is how long a worker is waited for that becomes a manager.
	promoteTimeout = 25 * time.Second

	// defaultKeydPatience is Config.KeydPatience.
	defaultKeydPatience = 15 * time.Second

	// logRetry is how long a follower of logs waits before it asks again a node
	// whose answer broke off.
	logRetry = 2 * time.Second

	// warnClock is from where on the clock of a node is worth a warning.
	warnClock = 5 * time.Second
	// maxUnsure bounds how unsure a node may be of its clock: that is its own word, and
	// would excuse any clock.
	maxUnsure = 5 * time.Second

	// warnReplaced is how long it is told that a session was replaced from elsewhere.
	warnReplaced = 24 * time.Hour

	// maxDrain bounds the deadline of a drain.
	maxDrain = 7 * 24 * time.Hour

	// maxExecBytes bounds the words and variables of a command in a container.
	maxExecBytes = 256 << 10

	// Merging logs: how long output waits for what may be older, from the start
	// and while following, how much waits at most, and what a piece counts
	// beyond its bytes.
	logPatience       = 3 * time.Second
	logFollowPatience = 500 * time.Millisecond
	logMergeBytes     = 8 << 20
	logPieceBytes     = 200

	// maxVerdicts bounds the nodes, and maxExplained the lines of each kind, in
	// which a task's place is explained.
	maxVerdicts  = 256
	maxExplained = 8

	// lockPatience bounds the wait for managers that are away to say whether they
	// are only locked.
	lockPatience = 2 * time.Second

	// lookPatience bounds looking at the other managers from outside.
	lookPatience = 15 * time.Second

	// maxChecked nodes judge themselves at a time, each for checkPatience at most;
	// maxCheckText bounds why one does not, in bytes.
	maxChecked    = 32
	checkPatience = 7 * time.Second
	maxCheckText  = 240

	// maxHosts bounds the hosts that one line names.
	maxHosts = 3

	// pageBytes and pageObjects end one page of a streamed listing; a page is
	// larger than pageBytes by one object at most. maxListed bounds the objects
	// of a listing in one answer.
	pageBytes   = 256 << 10
	pageObjects = 512
	maxListed   = 1000

	// minSlotPrefix is the least of a slot's id that names it.
	minSlotPrefix = 4

	// maxGone bounds the tasks that one message says are no more.
	maxGone = 16384

	// maxConfigs bounds the configs of one answer: each is 1 MiB at most, and
	// clients take 64.
	maxConfigs = 32

	// maxRecords and maxRecordsBytes bound the records of the audit log in one answer.
	maxRecords      = 4096
	maxRecordsBytes = 2 << 20

	// maxNetworks bounds the networks or policies that are asked for by name,
	// maxUsers the services that are told of one.
	maxNetworks = 100
	maxUsers    = 100
	// maxVolumes bounds the volumes of one prune.
	maxVolumes = 1000
	// maxNamed is how many things a warning names.
	maxNamed = 3
	// shownHash is how much is shown of a hash in hex.
	shownHash = 16
	// maxEndpoints bounds the tasks that are shown of a network.
	maxEndpoints = 1000

	// Of an admission policy: TPMs that are allowed by hash, CAs and the bytes of
	// each, and values of a register.
	maxAllowed   = 1024
	maxEKCAs     = 16
	maxEKCA      = 4096
	maxPCRValues = 16

	// Of the audit log: how long records are kept before they may be dropped, where nobody
	// said and at most, and how often that is done.
	defaultRetention = 90 * 24 * time.Hour
	maxRetention     = 36500 * 24 * time.Hour
	maxDrops         = 4096

	// maxWitnesses is how many witnesses outside of the cluster are shown the audit log.
	maxWitnesses = 8

	// Of waivers: how many there are, the bytes of a reason, how long one lasts, and
	// lines of evidence with the bytes of one, as a report has them at most.
	maxWaivers     = 1000
	maxReason      = 500
	maxWaived      = 366 * 24 * time.Hour
	maxWaivedLines = 21
	maxWaivedLine  = 240

	// Of signed reports: the bytes of one, and as it is kept, how many are kept and are
	// where nobody said, and how often the leader makes one by itself.
	maxReport         = 16 << 20
	maxPackedReport   = 2 << 20
	maxReports        = 32
	defaultReports    = 10
	minReportInterval = 10 * time.Minute
	maxReportInterval = 366 * 24 * time.Hour

	// A token that a rotation overtook is minted again mintTries times, mintPause
	// apart: the leader's keyd takes the next keyset over meanwhile.
	mintTries = 5
	mintPause = 200 * time.Millisecond
)
