package tlogwitness

import "time"

const (
	// Timeout bounds one submission, from the dialling to the answer's last byte.
	Timeout = 15 * time.Second
	// MaxURL bounds the prefix that is submitted under, and MaxRoots the certificates
	// in one of which a witness's TLS may end, MaxRoot each of them in bytes.
	MaxURL   = 512
	MaxRoots = 8
	MaxRoot  = 8 << 10

	// maxAnswer bounds the body of an answer, and maxHeaders its head, in bytes.
	maxAnswer  = 16 << 10
	maxHeaders = 16 << 10
	// maxProof is how many hashes a proof may have.
	maxProof = 63
)
