package external

import "time"

const (
	// SignTimeout bounds one certificate, probeTimeout the look at a CA that is set.
	SignTimeout  = 10 * time.Second
	probeTimeout = 5 * time.Second

	// maxAnswer bounds what the CA answers, in bytes, and maxChain the certificates
	// in it.
	maxAnswer = 64 << 10
	maxChain  = 6

	// maxConns bounds the connections to the CA, and maxMessage what of its own words
	// stands in an error.
	maxConns   = 16
	maxMessage = 256

	// idleTimeout is how long a connection to the CA is kept.
	idleTimeout = 30 * time.Second
)
