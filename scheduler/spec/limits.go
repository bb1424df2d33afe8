package spec

import "time"

// Bounds of a service's spec. They keep a task small enough to travel to its
// node in one message and a service small enough for one transaction of the
// store.
const (
	// MaxSpecBytes bounds the whole spec once encoded.
	MaxSpecBytes = 256 << 10
	// MaxReplicas bounds the replicas of one service.
	MaxReplicas = 100_000

	// MaxEnv bounds the number of variables, MaxEnvName and MaxEnvValue one.
	MaxEnv      = 512
	MaxEnvName  = 256
	MaxEnvValue = 32 << 10

	// MaxArgs bounds the number of words of command and args together, MaxArg
	// one of them.
	MaxArgs = 512
	MaxArg  = 32 << 10

	// MaxImage bounds an image reference, MaxUser the user, MaxPath any path.
	MaxImage = 512
	MaxUser  = 128
	MaxPath  = 1024
	// MaxHostname is the kernel's bound of a host name.
	MaxHostname = 63

	MaxMounts = 64
	// MaxFileOwner is the highest id that a container's user namespace has.
	MaxFileOwner = 65535
	MaxPorts     = 128
	// MaxIngressPorts is what nodes take of one service.
	MaxIngressPorts = 64
	// MaxProxyPorts is how many of these may have the PROXY protocol: each is a
	// process of each task.
	MaxProxyPorts = 8
	// MaxIngressReplicas is half of the tasks of one service that nodes lead clients
	// to: while it is updated there may be as many old ones as new ones.
	MaxIngressReplicas = 1 << 14
	MaxConstraints     = 64
	// MaxDependencies bounds the services that one waits for.
	MaxDependencies = 64
	MaxPlatforms    = 16
	// MaxConstraint bounds the text of one constraint.
	MaxConstraint = 512

	// MaxPreferences bounds the levels over which tasks are spread.
	MaxPreferences = 8
	MaxPriority    = 1000

	// MaxTmpfsBytes bounds one tmpfs mount.
	MaxTmpfsBytes = 1 << 40

	// MaxNanoCPUs is 4,096 cores, MaxMemoryBytes 64 TiB, MaxPids the kernel's
	// largest pid_max.
	MaxNanoCPUs    = 4096 * 1_000_000_000
	MaxMemoryBytes = 64 << 40
	MaxPids        = 4 << 20
	// MinMemoryLimit is the least a container can start with.
	MinMemoryLimit = 6 << 20
	// MinNanoCPUsLimit is the least the kernel's CPU quota can express.
	MinNanoCPUsLimit = 10_000_000

	// MaxRestartAttempts bounds what a restart policy counts, as each counted
	// restart is kept with the task.
	MaxRestartAttempts = 100
	MaxRestartDelay    = 24 * time.Hour
	MaxRestartWindow   = 30 * 24 * time.Hour
	MaxStopGrace       = time.Hour

	// Updates: a service is on its way as long as the longest of these.
	MaxUpdateDelay = 24 * time.Hour
	MaxMonitor     = 24 * time.Hour

	// Jobs: a change of leader takes well less than MinStartWithin, so that it has
	// nobody miss a run. MaxKeep bounds the runs that are kept of one job, and
	// MaxCompletions what those of them that go on at a time are to complete together: a
	// task is kept of each until its run has ended.
	MinStartWithin = time.Minute
	MaxStartWithin = 7 * 24 * time.Hour
	MaxKeep        = 100
	MaxCompletions = 10_000

	MaxRebalancePause = 24 * time.Hour

	// Healthchecks: MinHealthInterval keeps a node from doing nothing else.
	// rund bounds what images ask for in the same way.
	MinHealthInterval = time.Second
	MinHealthTimeout  = 100 * time.Millisecond
	MaxHealthDuration = time.Hour
	MaxHealthStart    = 24 * time.Hour
	MaxHealthRetries  = 1000
)

// Defaults.
const (
	DefaultReplicas     = 1
	DefaultRestartDelay = 5 * time.Second
	DefaultStopGrace    = 10 * time.Second
	DefaultParallelism  = 1
	DefaultMonitor      = 5 * time.Second
	DefaultKeep         = 10
	DefaultStartWithin  = 10 * time.Minute

	DefaultRebalancePause = time.Minute
)
