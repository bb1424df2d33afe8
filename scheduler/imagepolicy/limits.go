package imagepolicy

const (
	// MaxDocument bounds a policy in bytes.
	MaxDocument = 64 << 10
	// MaxBundle and MaxBundles bound one bundle, in bytes, and those of one image;
	// MaxEvidence what they have together.
	MaxBundle   = 3 << 20
	MaxBundles  = 32
	MaxEvidence = 12 << 20

	maxRules      = 128
	maxSigners    = 64
	maxKeys       = 16 // of one signer
	maxAuthority  = 16 // certificates of one signer's CA
	maxIdentities = 32
	maxPatterns   = 64 // of one rule
	maxTypes      = 16 // attestations of one rule
	maxText       = 512
	maxSaid       = 1024 // of what is wrong

	minRSA = 2048
	maxRSA = 8192 // larger ones cost too much to verify

	maxChain       = 8 // certificates of one bundle
	maxCertificate = 16 << 10
	maxSubjects    = 1024
	// maxReasons bounds what a refusal says of single bundles.
	maxReasons = 3
)
