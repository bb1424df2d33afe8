package cli

import (
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/secrets/seal"
	secretspec "github.com/redoubt-cluster/redoubt/secrets/spec"
)

// Every bound of the command line.
const (
	// callTimeout bounds one request and its answer.
	callTimeout = 30 * time.Second
	// renewTimeout bounds the renewal of a person's certificate, of which the rest of
	// callTimeout must be left for the call.
	renewTimeout = 10 * time.Second
	// verifyTimeout bounds the wait until every manager has read its audit log,
	// recordsPause is between two looks for newer records, and maxRecords how many
	// are asked for at a time.
	verifyTimeout = 3 * time.Minute
	recordsPause  = time.Second
	maxRecords    = 1024
	// archiveTimeout bounds the work with a whole archive of the audit log.
	archiveTimeout = 12 * time.Hour
	// maxCheckpointKeys bounds a file with keys of the audit log, and maxFault what a
	// manager says of it.
	maxCheckpointKeys = 256 << 10
	maxFault          = 300
	// maxSignedReport bounds a report that the leader signed, as it does, and
	// maxUntilSigned what is between its end and its signature, by two clocks.
	maxSignedReport = 16 << 20
	maxUntilSigned  = 10 * time.Minute
	// shipTimeout bounds sending a batch of records to a collector, maxReceipt what it
	// may say to that, and maxCursorFile the file that says how far it got.
	shipTimeout   = 2 * time.Minute
	maxReceipt    = 64 << 10
	maxCursorFile = 4 << 10
	// complianceTimeout bounds the wait until the leader judged the cluster and every
	// node itself; maxLeaderResults bounds what it answers, and maxResultText, in bytes,
	// its id.
	complianceTimeout = 5 * time.Minute
	maxLeaderResults  = 50_000
	maxResultText     = 512
	// maxWhyNot bounds, in bytes, why the cluster was not asked for its waivers, or to be judged.
	maxWhyNot = 240
	// resolveTimeout bounds a request for which a registry may be asked. It is
	// longer than the node's own attempts, so that their failure is told.
	resolveTimeout = 90 * time.Second
	// joinTimeout bounds a join, which talks to several managers in turn.
	joinTimeout = 2 * time.Minute
	// joinNotice is when it says that it is still at it.
	joinNotice = 5 * time.Second
	// stackTimeout bounds all changes of a stack, for which registries may be asked;
	// stackWatches how many of its services are waited for at a time.
	stackTimeout = 15 * time.Minute
	stackWatches = 64
	// maxStackKey bounds the file with the key of fingerprints.
	maxStackKey = 256
	// defaultWait is how long create, update and scale wait for convergence.
	defaultWait = 5 * time.Minute
	// volumeTimeout is how long volume rm waits until nodes have deleted data, volumePoll is
	// between two looks, and maxPruned how many volumes are asked to be removed at a time;
	// the leader refuses more.
	volumeTimeout = 30 * time.Second
	volumePoll    = 250 * time.Millisecond
	maxPruned     = 1000
	// stableFor is how long the wanted state must hold before it is called
	// converged: a container that exits at once runs for a moment, too.
	stableFor = 2 * time.Second
	// maxAlike is how many tasks that say the same have a line each.
	maxAlike = 10
	// rotateWait is how long unlock-key rotate waits for every manager.
	rotateWait = 20 * time.Second
	// storeKeyWait is how long store rotate-key waits for every manager.
	storeKeyWait = 5 * time.Minute
	// caRetry is how soon the progress of a rotation is asked for again.
	caRetry = 500 * time.Millisecond
	// rotateAway is how long it waits where only managers are left that are away.
	rotateAway = 2 * time.Second
	// unlockWait is how long unlock waits for the node to be active.
	unlockWait = 30 * time.Second
	// backupTimeout bounds making and restoring a backup, recoverTimeout a recovery.
	backupTimeout  = 15 * time.Minute
	recoverTimeout = 90 * time.Second
	// backupPiece is how much of a backup goes into one message.
	backupPiece = 64 << 10
	// leaderPatience is how long recover gives the managers to elect a leader.
	leaderPatience = 5 * time.Second
	// statusTimeout is how long a report waits for its node to say who it is.
	statusTimeout = 2 * time.Second
	// statusPoll is how often unlock asks whether the node is active yet.
	statusPoll = 50 * time.Millisecond
	// quorumPatience is how long unlock waits for the other managers before it
	// leaves them to be unlocked, too.
	quorumPatience = 3 * time.Second

	// maxMeshNodes is how many nodes are asked for their tunnels at a time; the
	// leader refuses more.
	maxMeshNodes = 64

	// maxSignedConfig bounds a file that is signed for as a config's content; a manager
	// takes no larger one.
	maxSignedConfig = 1 << 20
	maxSecretFile   = 4 << 10 // a key or token with a comment around it
	// maxSecretLines bounds shares, one a line.
	maxSecretLines = 16 << 10
	maxEnvFile     = 1 << 20
	maxLogLine     = 64 << 10 // a longer line is shown in pieces
	maxReplicas    = spec.MaxReplicas
	maxConfig      = secretspec.MaxConfigBytes
	maxSecretData  = seal.MaxSecret
	maxPort        = 65535
)
