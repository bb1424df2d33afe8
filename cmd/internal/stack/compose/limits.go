package compose

// Every bound of what is read. A file is somebody else's, as often as not.
const (
	// maxFile bounds a compose file and a file of variables, maxFiles how many are
	// read of a stack, maxEnvFiles those of variables for services.
	maxFile     = 1 << 20
	maxFiles    = 64
	maxEnvFiles = 256
	// maxNodes bounds what all files hold once their aliases are written out, maxDepth
	// how deep.
	maxNodes = 100_000
	maxDepth = 48
	// maxExpanded bounds what variables add to all files, in bytes. maxSearch bounds
	// the work with one text that has variables: its length by how many it has.
	maxExpanded = 4 << 20
	maxSearch   = 64 << 20
	// maxServices bounds a stack's services, maxObjects its networks, its secrets, its
	// configs and its policies, each.
	maxServices = 500
	maxObjects  = 500
	// maxExtends is how long a chain of services that extend another is followed for
	// a line number.
	maxExtends = 16
	// maxProblems is how many are told of.
	maxProblems = 100
)
