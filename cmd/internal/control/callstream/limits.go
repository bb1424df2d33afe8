package callstream

const (
	// maxCalls bounds the calls of a client under way in one stream; more go by
	// themselves. A server allows for twice as many, as an answer may be read, and
	// the next call come in, before who sent it has taken note.
	maxCalls       = 64
	maxServerCalls = 2 * maxCalls

	// maxRequest bounds a request in bytes that takes the stream, and maxUnsent
	// what is under way. gRPC keeps up to 64 KiB for a stream whose peer reads
	// nothing, so within these bounds a client's sending never waits, and a call to
	// a server that hangs ends with its context.
	maxRequest = 16 << 10
	maxUnsent  = 48 << 10

	// callOverhead is what a call counts beyond its request, in bytes.
	callOverhead = 128

	// maxResponse bounds one answer in bytes: what clients take.
	maxResponse = 60 << 20
	// batchBytes ends a message of answers in bytes; it is larger by one answer at
	// most.
	batchBytes = 64 << 10

	// maxStatus bounds an encoded status in bytes.
	maxStatus = 64 << 10
)
