package agent

import (
	"time"

	taskplaces "github.com/redoubt-cluster/redoubt/scheduler/places"
)

const (
	// maxAnswers to managers' questions wait to be sent.
	maxAnswers = 8

	// maxChecking questions about controls are answered at a time, each for at most
	// checkPatience and with so many bytes: managers take no more, and wait a second
	// longer, so that what takes too long hides nothing else.
	maxChecking    = 4
	checkPatience  = 6 * time.Second
	maxCheckAnswer = 64 << 10

	// defaultHeartbeat holds until the manager's Settings arrive, which may
	// name one between minHeartbeat and maxHeartbeat.
	defaultHeartbeat = 5 * time.Second
	minHeartbeat     = 100 * time.Millisecond
	maxHeartbeat     = time.Minute

	// eagerHeartbeat is a manager's for the first eagerTime of a session.
	eagerHeartbeat = 300 * time.Millisecond
	eagerTime      = 15 * time.Second

	// silentHeartbeats is how many heartbeats without a word from the manager
	// end the session.
	silentHeartbeats = 3

	// Reconnection waits between half and all of a time that doubles from
	// minBackoff to maxBackoff, so that a cluster's agents do not return at
	// once.
	minBackoff = 200 * time.Millisecond
	maxBackoff = 3 * time.Second

	// helperBackoff and maxHelperBackoff are the same for rund and netd, which
	// the supervisor restarts within a second.
	helperBackoff    = 100 * time.Millisecond
	maxHelperBackoff = 5 * time.Second

	// helloWait is how long the first session waits for the first probe.
	helloWait = 3 * time.Second

	// dialTimeout bounds reaching a manager and opening the stream.
	dialTimeout = 20 * time.Second

	// applyTimeout bounds one declaration to rund, which answers at once.
	applyTimeout = 30 * time.Second

	// checkInterval is how often netd is asked whether it still has what it
	// was given; a restart of netd is noticed within it.
	checkInterval = 2 * time.Second
	checkTimeout  = 5 * time.Second

	// probeInterval is how often node features are looked at again.
	// A node that refuses tasks looks more often: containerd may be coming up.
	// A helper that answers nothing for helperGrace, longer than its restart
	// takes, is reported as missing. One that hangs is found by probing, so
	// probeInterval and probeTimeout bound how long that takes.
	probeInterval   = 10 * time.Second
	refusalInterval = 3 * time.Second
	probeTimeout    = 10 * time.Second
	helperGrace     = 3 * time.Second

	// helloPause is the least time between two descriptions, so that a helper
	// that comes and goes does not use up what managers take from a node. It is
	// short, as an image that was just imported should soon be known.
	helloPause = 500 * time.Millisecond

	// maxName and maxDetail bound the texts of a description.
	maxName   = 128
	maxDetail = 512

	// attachTries is how often a task may fail to be attached before it is
	// given up, attachRetry the time between. A port's former owner on this
	// node may still be going away.
	attachTries = 4
	attachRetry = 500 * time.Millisecond

	// maxTasks bounds the tasks one node accepts.
	maxTasks = 4096
	// maxVolumes bounds the volumes that a manager wants to be deleted.
	maxVolumes = 1024

	// What managers may say of networks: networks and peers of the node; tasks,
	// services and rules of one network; aliases of a service.
	maxNetworks  = 8192 // managers tell of fewer: more would end the session
	maxPeers     = 16384
	maxPools     = 8192 + 256   // two of each network, and the cluster's own
	maxAddresses = 2 * maxPeers // of nodes
	minPoolBits  = 8            // a larger one would be a good part of the world
	maxEndpoints = 65536
	maxServices  = 16384
	maxRules     = 65536
	maxAliases   = 64
	// Options of a network, and of one its value; as managers bound them.
	maxOptions = 32
	maxOption  = 1024
	// maxLocalAddresses are those of a task on one network of rund's drivers that
	// managers are told.
	maxLocalAddresses = 16

	maxEntries = maxPeers
	maxPorts   = 64 // that one service publishes

	// withdrawTime is how long a task on networks goes on after names and virtual
	// addresses have ceased to lead to it: other nodes hear of it within half a
	// second, and a client may remember its address for one more.
	// Managers may say how long, up to maxWithdraw.
	withdrawTime = 1500 * time.Millisecond
	maxWithdraw  = 30 * time.Second

	// maxReports bounds one StatusBatch.
	maxReports = 256

	// maxText bounds messages and errors in a status; longer ones are cut.
	maxText = 512

	// maxImageBytes bounds the names of imported images in a description.
	maxImageBytes = 128 << 10

	// Log forwarding: subscriptions at a time, their length, bytes of a chunk,
	// chunks waiting to be sent, and bytes a second, of which every chunk costs
	// some by itself. The rate is half of what the manager accepts from a node;
	// it is kept by pauses that are worth a timer.
	maxSubscriptions = 64
	maxLogTasks      = 1024
	maxLogChunk      = 32 << 10
	logQueue         = 64
	logRate          = 4 << 20
	logOverhead      = 1 << 10
	logPause         = 10 * time.Millisecond

	// maxExecuting commands are carried at a time: managers ask for no more.
	maxExecuting = 32

	// Deliveries of secrets and configs: tasks of one request, files of a task, how
	// long one may take, when what failed is tried again, and after how long what rund
	// took and does not tell of.
	maxDeliver     = 32
	maxFiles       = taskplaces.MaxFiles + 1 // and the credential
	deliverTimeout = 30 * time.Second
	fileRetry      = 500 * time.Millisecond
	maxFileRetry   = 15 * time.Second
	fileSettle     = 2 * time.Second
)
