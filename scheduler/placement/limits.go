package placement

import "time"

const (
	// A node where failureThreshold tasks of one revision failed within
	// failureWindow is chosen last for that revision.
	failureThreshold = 3
	failureWindow    = 5 * time.Minute

	// maxReasons bounds the different reasons in one refusal, so that it stays
	// a line.
	maxReasons = 6
)
