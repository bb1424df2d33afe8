package rund

import "time"

const (
	// maxTasks bounds one Apply; a node of this kernel runs out of process
	// ids and memory long before.
	maxTasks = 4096
	// maxNetworks bounds the networks of one Apply.
	maxNetworks = 4096
	// maxMessage bounds a gRPC message: maxTasks small specs fit.
	maxMessage = 16 << 20
	// maxSaid bounds an error that the agent is told, in bytes.
	maxSaid = 1024
	// maxImportChunk bounds one chunk of an image stream.
	maxImportChunk = 4 << 20

	// Bounds of one task's specification.
	maxArgs     = 1024
	maxArgBytes = 1 << 20 // all command, args and env of a task together
	maxMounts   = 64
	// maxLocalNetworks that are not overlays, of a task.
	maxLocalNetworks = 32
	maxDNS           = 8
	maxHosts         = 128 // addresses of the container's own name
	maxTmpfsSize     = 1 << 40
	maxSignal        = 64 // characters; also of an image's
	maxGrace         = time.Hour

	// What the node's configuration may allow: each is a feature that it tells of.
	maxAllowedDevices = 24
	// maxRanges bounds the ranges of ids that tasks may have for themselves.
	maxRanges = 1024
	// Filters of system calls: how many, how long one is and how many calls it names.
	maxProfiles     = 16
	maxProfileBytes = 256 << 10
	maxProfileCalls = 4096

	// maxKnownUsers bounds what is remembered of users in images.
	maxKnownUsers = 256

	defaultGrace = 10 * time.Second
	// withdrawTime is how long a container on networks that is unhealthy goes on:
	// names and virtual addresses cease to lead to it first.
	withdrawTime = 1500 * time.Millisecond
	// killWait is how long a container may take to vanish after SIGKILL.
	killWait = 20 * time.Second

	// Parallel work: creating containers saturates the disk early.
	parallelPulls   = 3
	parallelCreates = 4

	// Healthchecks: how many are started at once on the node and for how long one
	// counts as that, what is kept of one's output and read of it in all, how
	// long the end of its output and one call to containerd may take beyond the
	// check's own time.
	parallelChecks   = 8
	checkPlace       = 2 * time.Second
	maxCheckOutput   = 4 << 10
	maxCheckDrain    = 1 << 20
	checkOutputWait  = 200 * time.Millisecond
	checkCallTimeout = 10 * time.Second

	// Commands in containers: on a node, in one container, bytes of one piece of input or
	// output, characters of a user, rows or columns of a terminal, how long one may take
	// to start and to end, and the silence after its end that no output follows.
	maxExecs     = 64
	maxTaskExecs = 8
	maxExecChunk = 32 << 10
	maxExecUser  = 128
	maxWindow    = 1 << 12
	maxExecLife  = 24 * time.Hour
	execStart    = 20 * time.Second
	execEnd      = 10 * time.Second
	execSilence  = time.Second

	// Relays of a task; the user that they have, counted from the end of the range:
	// neither 65534, which is nobody, nor 65535, which 16 bits take for none. How long
	// one may take to start, the longest word it says, when it is tried again, and
	// what it must have lived for not to count as failing.
	maxRelays     = 8
	relayUser     = 3
	relayTimeout  = 20 * time.Second
	maxRelayWord  = 1 << 10
	relayRetryMin = 100 * time.Millisecond
	relayRetryMax = 15 * time.Second
	relayLived    = time.Minute
	// Connections of a relay (mesh/proxy), and what each takes at most of the task's
	// memory: measured 35 KB, by 4,096 clients that took nothing of what they asked for.
	// All together take one part in relayShare of that memory; but each relay holds
	// relayLeast.
	relayMost   = 4096
	relayMemory = 36 << 10
	relayShare  = 4
	relayLeast  = 16

	// Callers of a task's Workload API: the least time between two that are accepted,
	// how long redoubtd may take for one, how often refusals are logged, and how many
	// wait while redoubtd is away.
	callerPause       = 5 * time.Millisecond
	callerTimeout     = 2 * time.Second
	callerLogPause    = 10 * time.Second
	maxWaitingCallers = 32

	// maxIdentityFile bounds each file of an identity in bytes.
	maxIdentityFile = 256 << 10

	// Garbage: when after the start, how often, and how long it may take.
	collectFirst   = 30 * time.Second
	collectEvery   = 5 * time.Minute
	collectTimeout = 2 * time.Minute
	// diskStep is how exactly free space is reported.
	diskStep = 256 << 20

	// Between attempts. That containerd answers again ends the wait.
	retryMin = 100 * time.Millisecond
	retryMax = 3 * time.Second
	// Between connections to containerd while it is away, and for one.
	redialMin     = 50 * time.Millisecond
	redialMax     = 250 * time.Millisecond
	redialTimeout = time.Second
	// maxMess is how often leftovers of an interrupted start are tried to be
	// removed before the task is given up: about 20 s.
	maxMess = 10
	// startTimeout bounds the start of a container that was made.
	startTimeout = 20 * time.Second
	// callTimeout bounds one containerd call that normally takes milliseconds.
	callTimeout = time.Minute
	// probeTimeout bounds what Probe asks of containerd.
	probeTimeout = 5 * time.Second

	// maxControls bounds the controls of one Check, which ends checkMargin before who
	// asks has gone.
	maxControls = 64
	checkMargin = 500 * time.Millisecond

	// maxLogTail bounds the lines of one Logs request that are kept in memory;
	// files are bounded by configuration.
	maxLogTail = 1 << 20
)
