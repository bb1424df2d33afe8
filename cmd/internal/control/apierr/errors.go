package apierr

import (
	"fmt"
	"strings"
)

// Constructors for the refusals that several handlers share.

// Invalid refuses a request that could never be right.
func Invalid(remedy, format string, args ...any) *Error {
	return New(ReasonInvalid, remedy, format, args...)
}

// NotFound refuses a name or id that is not there.
func NotFound(remedy, format string, args ...any) *Error {
	return New(ReasonNotFound, remedy, format, args...)
}

// Ambiguous refuses a name or prefix that means several things, of which found
// are some.
func Ambiguous(what, name string, matches int, found []string) *Error {
	list := strings.Join(found, ", ")
	if more := matches - len(found); more > 0 && list != "" {
		list += fmt.Sprintf(" and %d more", more)
	}
	if list != "" {
		list = ": " + list
	}
	return New(ReasonAmbiguous, "use its id, or a longer prefix of it", "%q means more than one %s%s", name, what, list)
}

// Exists refuses a name that is taken.
func Exists(remedy, format string, args ...any) *Error {
	return New(ReasonExists, remedy, format, args...)
}

// Conflict refuses an update of something that changed since it was read.
func Conflict(what string) *Error {
	return New(ReasonConflict, "read it again and repeat the update", "the %s was changed by somebody else meanwhile", what)
}

// State refuses what could be right, but not now.
func State(remedy, format string, args ...any) *Error {
	return New(ReasonState, remedy, format, args...)
}

// Locked is the answer of a manager whose store is sealed.
func Locked() *Error {
	return New(ReasonLocked, "run `redoubt unlock` on it", "this manager is locked")
}

// NoCluster is the answer of a node that is in no cluster.
func NoCluster() *Error {
	return New(ReasonNoCluster, "run `redoubt init` or `redoubt join` on it", "this node is in no cluster")
}

// Removed is the state of a node that its cluster took out.
func Removed() *Error {
	return New(ReasonDenied, "join again with `redoubt join` and a new token if that was not meant", "this node was removed from its cluster")
}

// InCluster refuses init and join on a node that is a member already.
func InCluster(clusterID string) *Error {
	return New(ReasonInCluster, "run `redoubt leave` first if that is meant", "this node is already in cluster %s", clusterID)
}

// Denied refuses a caller who may not do this.
func Denied(remedy, format string, args ...any) *Error {
	return New(ReasonDenied, remedy, format, args...)
}

// NotManager is the answer of a worker to what only managers answer.
func NotManager() *Error {
	return New(ReasonDenied, "run the command on a manager", "this node is a worker")
}

// NoLeader is the answer while there is no quorum or no leader is known.
func NoLeader() *Error {
	return New(ReasonNoLeader, "see that a majority of managers is up and unlocked, then try again", "the cluster has no leader")
}

// Unreachable is the answer when another node needed for this is away.
func Unreachable(remedy, format string, args ...any) *Error {
	return New(ReasonUnreachable, remedy, format, args...)
}

// Unsupported refuses what this version does not do.
func Unsupported(remedy, format string, args ...any) *Error {
	return New(ReasonUnsupported, remedy, format, args...)
}
