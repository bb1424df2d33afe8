package spec

const (
	// MaxNetworks bounds the networks of a cluster: each creation looks at all.
	MaxNetworks = 4096
	// MaxOptions bounds the options of a network, MaxOption one value.
	MaxOptions = 32
	MaxOption  = 1024
	// MaxSpecBytes bounds a network or policy once encoded.
	MaxSpecBytes = 64 << 10

	// maxConflist bounds the name of a conflist, as rund does.
	maxConflist = 64

	// MaxLocal bounds the networks of a service that are made by its nodes' own
	// drivers.
	MaxLocal = 32

	// Prefix lengths of a network's subnets: a smaller one has no room for an
	// endpoint and a virtual address beside the gateway, a larger one is a slip.
	MinBits4, MaxBits4 = 8, 29
	MinBits6, MaxBits6 = 48, 120

	// MaxUses bounds the networks of a service, MaxAliases its aliases on one.
	MaxUses    = 64
	MaxAliases = 32

	// MaxPolicies bounds the policies of a cluster, MaxRules the rules of one.
	MaxPolicies = 4096
	MaxRules    = 256
	// MaxNetworkRules bounds the rules of all policies of a network: nodes get them
	// together.
	MaxNetworkRules = 4096
)
