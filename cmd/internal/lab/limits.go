package lab

import "time"

// Every bound of a lab.
const (
	maxLabs  = 200 // the third byte of the subnet
	maxHosts = 50  // hosts in one lab

	subnetByte  = 193 // 10.193.<lab>.0/24, in no pool of a cluster
	firstUID    = 600_000_000
	firstUserNS = 0x5000_0000
	usernsSize  = 65536

	maxState = 64 << 10
	// maxLastWords bounds what is read of a log for its last line.
	maxLastWords = 4 << 10

	// bootWait bounds the start of one process.
	bootWait = 30 * time.Second
	// readyWait bounds the time until every node is Ready.
	readyWait = 2 * time.Minute
	// stopWait is how long a process may take to end after SIGTERM.
	stopWait = 20 * time.Second
	// downWait bounds the removal of everything.
	downWait = 30 * time.Second
	poll     = 50 * time.Millisecond
)
