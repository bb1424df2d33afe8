package pki

import (
	"time"

	"github.com/redoubt-cluster/redoubt/pki/profile"
)

const (
	// maxTokenText bounds the text of a token before it is looked at.
	maxTokenText = 256

	// maxInvitationText bounds that of an invitation, which names managers.
	maxInvitationText = 4096

	// dialTimeout bounds connecting and shaking hands with one manager.
	dialTimeout = 10 * time.Second

	// maxVerified chains whose signatures were verified are remembered, each for
	// verifiedLife.
	maxVerified  = 4096
	verifiedLife = time.Minute

	// joinCallTimeout bounds one join call: a signature, a sealed keyset and a
	// commit.
	joinCallTimeout = 30 * time.Second

	// A joiner that is told to come later, or whose connection is cut, asks again
	// after minJoinPause, doubling up to maxJoinPause, or when it was told to.
	minJoinPause, maxJoinPause = time.Second, 15 * time.Second
	// busyPause is what it is told where too many join at a time, or where keyd
	// signs no more for now.
	busyPause, signerPause = 5 * time.Second, 10 * time.Second

	// Bounds on what a joiner may send beside its requests.
	maxAddress      = 300
	maxJoinReply    = 1 << 20
	maxJoinsAtATime = 16

	// maxAddresses bounds the addresses of managers that a node keeps: far more
	// than there are managers, and what netd takes.
	maxAddresses = 64

	// A source may fail to prove a token joinBurst times at once and then once
	// every joinRefill; maxSources sources are remembered.
	joinBurst  = 10
	joinRefill = 6 * time.Second
	maxSources = 4096

	// A machine that waits for an operator asks every approvalPause, and is forgotten
	// when it did not for pendingLife; what was decided of it is kept for
	// decisionLife. maxPending wait at most. A joiner waits for maxApproval.
	approvalPause = 3 * time.Second
	pendingLife   = 30 * time.Second
	decisionLife  = 5 * time.Minute
	maxPending    = 64
	maxApproval   = 30 * time.Minute

	// externalPause is when a join is tried again that an external CA did not certify.
	externalPause = 10 * time.Second

	// A failure of the external CA is written down once in failureInterval, and not
	// sooner after a success that ended one; its text has maxFailure bytes at most.
	failureInterval = time.Minute
	maxFailure      = 512

	// A node may renew renewBurst times at once and then once every renewRefill.
	renewBurst  = 5
	renewRefill = time.Minute

	// A leaf is renewed at a random point between these shares of its life.
	renewFrom, renewUntil = 0.5, 0.8

	// A failed renewal is tried again after renewBackoffMin, doubling up to
	// renewBackoffMax, each with jitter.
	renewBackoffMin = 5 * time.Second
	renewBackoffMax = 10 * time.Minute

	// clockCheck is how often a wait for a renewal looks at the wall clock.
	clockCheck = time.Minute

	// reissueGrace is how long a node has to take a certificate over before the
	// issuer of the one before is forgotten: renewals are tried again until then.
	reissueGrace = 15 * time.Minute

	// A manager that has heard no leader for raftPatience may have missed a
	// rotation, and catches up with a manager of an issuer it does not know; after
	// callPatience it asks such a one, as a worker would, what became of it.
	raftPatience = 10 * time.Second
	callPatience = 2 * time.Second

	// maxGiven bounds the attempts at promotion of one node between two rotations,
	// and maxRetired the keyd keys that one rotation retires.
	maxGiven, maxRetired = 8, 64

	// promoteWait is how long a worker has to become a manager.
	promoteWait = 5 * time.Minute

	// maxDeniedIdentities bounds the workload identities that are revoked or were
	// within LongestSVID: each session is told all of them.
	maxDeniedIdentities = 1024

	// maxNoted bounds the certificates of a node that its record can have listed as
	// revoked: a node that renews when due has two or three that have not ended, and
	// one more for each replacement of a CA meanwhile.
	maxNoted = 32

	// maxUnjournalled bounds the certificates on record that nobody gave out, those of
	// the cluster's own CAs and those of an external one each: who has the one floods
	// no alarm of the other away.
	maxUnjournalled = 16

	// A revocation list names at most maxListed certificates, the newest, and a root's
	// the newest maxRevokedIssuers. It is signed again when it ends within listAhead,
	// and what should be on it is looked at every listCheck. A signer that refuses is
	// asked again after listRetry, doubling up to longestListRetry.
	maxListed                   = 6000
	maxRevokedIssuers           = 128 // two for each manager that left, one a rotation
	listAhead                   = 48 * time.Hour
	maxFormerLists              = 8 // of CAs of before: two a rotation
	listCheck                   = time.Hour
	listRetry, longestListRetry = time.Second, time.Minute

	// renewTimeout bounds one attempt.
	renewTimeout = time.Minute
)

// LongestSVID is the longest life of a workload's certificate, and so what a denial
// that was taken back is remembered for.
const LongestSVID = 24 * time.Hour

// Token lifetimes and uses.
const (
	DefaultTokenTTL  = 10 * time.Minute
	MaxTokenTTL      = 30 * 24 * time.Hour
	MaxManagerTTL    = 24 * time.Hour
	DefaultTokenUses = 1
	MaxTokenUses     = 10000
	// MaxTokens bounds the records kept; expired ones make room first.
	MaxTokens = 10000
	maxPruned = 100
)

// Lifetimes of invitations, and how many people there may be.
const (
	DefaultInvitationTTL = time.Hour
	MaxInvitationTTL     = 7 * 24 * time.Hour
	MaxPeople            = 1024
)

const (
	// maxRoots and maxCross bound what a node trusts and keeps: two while a root is
	// replaced, and the certificates of a few replacements.
	maxRoots, maxCross = 4, profile.MaxFormer
)

const (
	// IssuerLife is for how long an issuing CA signs before it is replaced.
	IssuerLife = 30 * 24 * time.Hour
	// CABackdate is how far a CA's NotBefore lies before its making; keyd has the
	// same.
	CABackdate = time.Hour
	// Straggler is for how long a phase of a root's replacement waits for a node
	// that is connected and does not do its part.
	Straggler = 2 * time.Minute
)
