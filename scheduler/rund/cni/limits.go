package cni

import "time"

const (
	// A conflist: its file, how deep its JSON goes, how many plugins it chains.
	maxConflist = 64 << 10
	maxDepth    = 16
	maxChain    = 16
	maxName     = 64 // characters of a conflist's or a plugin's name

	// maxConflists is how many of a node's conflists are made known.
	maxConflists = 64

	// Plugins that a node may pin, and the bytes of one.
	maxPlugins     = 64
	maxPluginBytes = 64 << 20
	// binBytes bounds the copies of all of them, which lie in memory.
	binBytes = 256 << 20

	// maxNetworks is how many CNI networks a task may be on.
	maxNetworks = 32
	// maxAddresses is how many a network may give it.
	maxAddresses = 16

	// callTime bounds ADD, DEL or CHECK of a whole conflist, dhcp's answer
	// included.
	callTime = 30 * time.Second
	// endTime bounds the end of what was killed.
	endTime = 5 * time.Second
	// What a plugin may write before it is killed, and what of its errors is
	// kept for a person to read.
	maxOutput  = 1 << 20
	maxMessage = 512
	// maxSaid bounds an error as it leaves the package, in bytes.
	maxSaid = 1024

	// maxRecord bounds the record of one attachment.
	maxRecord = 256 << 10

	// Between attempts at a DEL that fails.
	retryMin = time.Second
	retryMax = 5 * time.Minute

	// parallel is how many tasks are attached or detached at a time.
	parallel = 8
	// maxFrame bounds a message between rund and the helper.
	maxFrame = 4 << 20
)
