package roles

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
	// maxWhy bounds the roles and policies that a decision names.
	maxWhy = 16
)
