package roles

import "time"

const (
	// MaxRoles, MaxBindings and MaxPolicies bound the records of each kind.
	MaxRoles    = 256
	MaxBindings = 4096
	MaxPolicies = 128
	// MaxPolicyBytes bounds the text of one policy, MaxStatements the permits and
	// forbids in it.
	MaxPolicyBytes = 16 << 10
	MaxStatements  = 64
	// MaxAllStatements bounds those of all policies: each is looked at for every call.
	MaxAllStatements = 512
	// MaxDescription bounds the description of a role, in bytes.
	MaxDescription = 256
	// MaxPeople bounds how many must be for a request.
	MaxPeople = 9
	// ApprovalLife is for how long others may say that they are for a request, and it
	// may be made again.
	ApprovalLife = 24 * time.Hour
	// MaxApprovals bounds the records of them, maxOpen those of one requester that can
	// still come to something. One that cannot is kept for approvalsKept, or until
	// there is no room.
	MaxApprovals  = 1024
	maxOpen       = 16
	approvalsKept = 7 * 24 * time.Hour
	// MaxApprovable bounds a request that others must be for, in bytes: they read it.
	MaxApprovable = 32 << 10
	// maxWhy bounds the roles and policies that a decision names.
	maxWhy = 16
)
