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

	// maxVictims bounds the tasks that are stopped for one.
	maxVictims = 16

	// A task moves to a less loaded node only where that has at least minLoadGain tasks
	// fewer, and a loadShare of them.
	minLoadGain = 3
	loadShare   = 5

	// maxReasons bounds the different reasons in one refusal, so that it stays
	// a line.
	maxReasons = 6
)
