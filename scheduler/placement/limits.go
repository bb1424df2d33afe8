package placement

import "time"

const (
	// A node where failureThreshold tasks of one revision failed within
	// failureWindow is chosen last for that revision.
	failureThreshold = 3
	failureWindow    = 5 * time.Minute

	// MaxTasksPerNode bounds the live tasks of a node. Agents take 4,096, with
	// the ended ones that they are told of.
	MaxTasksPerNode = 3000

	// maxReasons bounds the different reasons in one refusal, so that it stays
	// a line.
	maxReasons = 6
)
