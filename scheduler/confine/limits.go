package confine

const (
	maxDevices = 32
	// maxDevicePath bounds the path of one.
	maxDevicePath = 128
	maxUlimits    = 16
	maxSysctls    = 64
	// maxSysctl bounds the value of one.
	maxSysctl = 128
	maxGroups = 64
	// maxGroup bounds a name, and maxID is the highest number that a container's user
	// namespace can have.
	maxGroup = 32
	maxID    = 1<<31 - 1
	maxHosts = 64

	// Of resolv.conf(5).
	maxServers    = 3
	maxSearch     = 6
	maxDomain     = 253
	maxDNSOptions = 16
	maxNdots      = 15
	maxTimeout    = 30
	maxAttempts   = 5

	// maxTemplates bounds the actions of all templates of a container together.
	maxTemplates = 1024
	// What becomes of them: a value of env, a hostname and the source of a mount.
	maxEnvValue = 32 << 10
	maxHostname = 63
	maxSource   = 1024
)
