package identity

import "time"

const (
	// One node: items that it may ask for at once, as many as it may have tasks, and
	// one more every refill. Beyond, it is told to wait.
	nodeBurst  = 8192
	nodeRefill = 5 * time.Millisecond
	// minItems is what a call counts for at least, whatever it asks for.
	minItems = 8

	// maxHeld bounds what a node says that its tasks hold.
	maxHeld = 4096

	// maxIssued bounds what is remembered of one node's certificates, the newest: two
	// for each task that it may have. maxCertificates bounds what it says of one task.
	maxIssued       = 8192
	maxCertificates = 8

	// skew is how far a node's clock may be off.
	skew = 10 * time.Minute

	// maxText bounds what a node says of an error, in bytes.
	maxText = 512

	// reportRefill and reportBurst are of a node's reports.
	reportBurst  = 16
	reportRefill = 500 * time.Millisecond
)
