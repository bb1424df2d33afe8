package dispatcher

import (
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/places"
)

const (
	defaultHeartbeat = 5 * time.Second

	// missedHeartbeats without a word make a node down.
	missedHeartbeats = 3

	// maxRoots bounds the roots that a node says to trust.
	maxRoots = 8

	// helloTimeout bounds the wait for a session's first message.
	helloTimeout = 10 * time.Second

	// managersInterval is how often the list of managers is looked at.
	// It is read from memory, and a node that knows one manager only is lost
	// with that one.
	managersInterval = 500 * time.Millisecond

	// maxMoves bounds the changes of a node's address that are recorded in
	// moveInterval; of more, the newest is when it is over.
	maxMoves     = 3
	moveInterval = time.Minute

	// One Assignments message; a larger set goes on in the next. Well below
	// the 4 MiB that gRPC receives by default, as the last assignment of a
	// message may itself be large.
	maxAssignmentBytes = 1 << 20
	maxAssignments     = 512

	// maxCompleteSets is how many sessions make their complete set at a time.
	maxCompleteSets = 16

	// maxEnded bounds the ended tasks a node is told of, so that logs of the
	// newest can be read and the number of its tasks stays bounded.
	maxEnded = 1000

	// withdrawal is how long a task that serves on networks goes on when it is to
	// stop. Each node is told at once and has half a second for it; a client may
	// keep the address for as long as named lets it, which is one.
	withdrawal = 1500 * time.Millisecond

	// Statuses: what one message may carry, and how they become transactions.
	maxBatchReports = 1024
	flushDelay      = 20 * time.Millisecond
	progressDelay   = time.Second // of words on a task that is on its way
	flushReports    = 1024
	flushBytes      = 256 << 10 // of statuses, with taskBytes for the task of each
	taskBytes       = 128
	flushNodes      = 8 // descriptions are larger
	writeRetry      = 50 * time.Millisecond
	maxWriteRetry   = time.Second

	// Questions to nodes under way, how long an answer may take, and lines of one
	// kind in it.
	maxQuestions = 256
	askPatience  = 5 * time.Second
	maxMeshLines = 64

	// Of a node's answer by controls: how long it may take, which is longer than the
	// node takes for any, its bytes, the lines of each result, and the bytes of one.
	checkPatience  = 7 * time.Second
	maxCheckAnswer = 64 << 10
	maxCheckLines  = 32
	maxCheckLine   = 240

	maxMessageText = 1024
	maxContainerID = 128
	maxAddress     = 64
	maxClockAhead  = time.Minute
	// maxLocalAddresses is how many a driver of a node may give a task on one
	// network.
	maxLocalAddresses = 16

	// The node's own description.
	maxDescriptionBytes = 256 << 10
	maxFeatures         = 128
	maxImages           = 4096
	maxVolumes          = 1024
	maxShortText        = 128
	maxDetailText       = 512
	maxReference        = 512
	maxNanoCPUs         = 1 << 20 * 1e9
	maxMemoryBytes      = 1 << 50
	maxPIDs             = 1 << 32

	// Quotas of one node: tokens a second, and what may come at once. Messages
	// and reports beyond them are read later, which in the end slows the
	// sender; log bytes beyond theirs are dropped and counted, so that a
	// talkative container cannot delay its node's heartbeats. A message costs
	// one token and one more for each quotaBytes of it.
	quotaBytes                = 4 << 10
	sessionRate, sessionBurst = 0.5, 10
	messageRate, messageBurst = 200, 1000
	reportRate, reportBurst   = 1000, 8192
	repeatRate, repeatBurst   = 10, 512
	deliverRate, deliverBurst = 50, 4096  // tasks
	keyRate, keyBurst         = 100, 2000 // keys of secrets: a tenth of what keyd opens for all nodes
	chunkRate, chunkBurst     = 8192, 16384
	logRate, logBurst         = 8 << 20, 16 << 20
	helloRate, helloBurst     = 0.5, 10

	// Log subscriptions.
	maxSubscriptions   = 128
	maxSubscribedTasks = 1024
	maxLogChunk        = 64 << 10
	subscriptionBytes  = 4 << 20
	subscriptionChunks = 4096

	// Commands in containers: at a time, of one node, by one caller, how long a node may
	// take to come for one, and bytes of one piece of input or output.
	maxExecs       = 128
	maxNodeExecs   = 32
	maxCallerExecs = 16
	execPatience   = 10 * time.Second
	maxExecChunk   = 32 << 10

	// maxClockOffset bounds what a node says of its clock.
	maxClockOffset = 100 * 365 * 24 * time.Hour

	// maxControl bounds messages waiting for one session beside assignments.
	maxControl = 512

	// refusalLogRate bounds how often a node's refused reports are logged.
	refusalLogRate, refusalLogBurst = 0.2, 5

	// maxDelivered bounds the tasks of one call of Deliver, maxParcel the bytes that
	// one of them gets: rund takes no more.
	maxDelivered = 64
	maxParcel    = places.MaxBytes
	// maxFiles bounds the files that a node may say a task has.
	maxFiles = places.MaxFiles
)
