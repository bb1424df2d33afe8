package dockerapi

import "time"

const (
	// MinVersion and MaxVersion are the versions of the API that are spoken.
	minMinor, maxMinor = 40, 51

	// maxHeader bounds the head of a request in bytes, headerPatience and bodyPatience
	// how long it and its body may take to come. Answers have no bound: some follow.
	maxHeader      = 64 << 10
	headerPatience = 10 * time.Second
	bodyPatience   = 30 * time.Second
	idlePatience   = 2 * time.Minute

	// maxBody bounds a body in bytes: a config of 1 MiB in base64, and what describes it.
	maxBody = 2 << 20
	// maxFilters bounds the filters of a request in bytes.
	maxFilters = 64 << 10

	// callPatience bounds a call that has one answer.
	callPatience = 60 * time.Second

	// infoPatience bounds what info waits for the cluster: it is to say where it is wrong.
	infoPatience = 10 * time.Second

	// deletePatience bounds what the removal of a volume waits for nodes to delete its data,
	// and maxPruned how many volumes are asked to be removed at a time; the leader refuses
	// more.
	deletePatience = 20 * time.Second
	maxPruned      = 1000

	// onceFor is for how long a key or a token that was made waits for the request that
	// fetches it, and maxOnce how many do at a time.
	onceFor = time.Minute
	maxOnce = 16
)
