package proxy

import "time"

const (
	// MaxConnections of one relay; others wait in the kernel's queue. As many that
	// pass nothing are 48 MB of the task's memory, beside what the kernel keeps of
	// them, and bufferSize more for each way in which something waits for the other
	// end.
	MaxConnections = 4096
	// descriptors are those that are no connection's.
	descriptors = 32
	bufferSize  = 16 << 10
	// connectTimeout is for the program, whose queue may be full.
	connectTimeout = 10 * time.Second
	// lingerFor is what the kernel gives a connection that a program closed, for the
	// other's end to come. stalledFor is for 16 KB that a client does not take, as
	// when a film is paused.
	lingerFor  = time.Minute
	stalledFor = 10 * time.Minute
	// A client that is gone without a word is found out.
	keepAliveIdle  = time.Minute
	keepAliveEvery = 15 * time.Second
	keepAliveCount = 6
	// acceptPause is for when the kernel is short of something.
	acceptPause = 50 * time.Millisecond
	maxAddrs    = 2
)
