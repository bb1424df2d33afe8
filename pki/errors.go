package pki

import "errors"

// SignerBusy is how a signer refuses for now: it was asked too often. Its text is
// for whoever proved to hold a token.
type SignerBusy struct{ Err error }

func (e *SignerBusy) Error() string { return e.Err.Error() }
func (e *SignerBusy) Unwrap() error { return e.Err }

// ExternalError says why a CA outside of the cluster certified nothing. Its text is
// for whoever proved to be a node, or to hold a token.
type ExternalError struct{ Err error }

func (e *ExternalError) Error() string { return e.Err.Error() }
func (e *ExternalError) Unwrap() error { return e.Err }

// Why a peer was not accepted. VerifyPeer wraps one of them with the node's id;
// the texts are made for the person who reads the last line of an error.
var (
	ErrPeerLocked     = errors.New("this manager is locked: run redoubt unlock there")
	ErrNotManager     = errors.New("this node is not a manager: give the address of a manager")
	ErrOtherCluster   = errors.New("this node belongs to another cluster: check the address and the token")
	ErrPeerExpired    = errors.New("its certificate has expired: check the clocks, or join it again")
	ErrPeerNotYet     = errors.New("its certificate is not valid yet: check the clocks")
	ErrUntrusted      = errors.New("its certificate is not signed by this cluster: check the address")
	ErrFormerIssuer   = errors.New("its certificate is of before the keys were rotated, and not the one on record: renew it, or join again")
	ErrWrongRole      = errors.New("its role may not use this protocol")
	ErrNotPerson      = errors.New("this protocol is for people, and it is a node")
	ErrIsPerson       = errors.New("it is a person, who may use no protocol of nodes")
	ErrPersonExpired  = errors.New("the certificate has expired: ask for an invitation (redoubt person invite)")
	ErrWrongNode      = errors.New("another node answers at that address")
	ErrSignature      = errors.New("the signature is not its own")
	ErrNoCertificate  = errors.New("it shows no certificate")
	ErrConnectionLost = errors.New("the manager closed the connection: it may be starting, without a leader, or have too many callers from this address; try again")
)
