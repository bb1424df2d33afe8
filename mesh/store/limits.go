package store

const (
	// settingsID is the id of the one record of the table of settings.
	settingsID = "mesh"

	// VNIs of 24 bits. The lowest are left to what an administrator configures by
	// hand on the same machines.
	minVNI = 4096
	maxVNI = 1<<24 - 1

	// maxIngress is how many ingress networks may stand beside the others, at
	// least: as many as services can have.
	maxIngress = 100_000

	// maxSubnetTries bounds the search for a subnet of a pool; networks that were
	// given others may stand in the way of that many.
	maxSubnetTries = 1 << 16

	// maxAttempts is how often numbers are chosen again that another chose too.
	maxAttempts = 16
)
