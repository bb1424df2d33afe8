package report

// Bounds of a report, whoever made it.
const (
	maxResults  = 50_000    // results; more is an error, as none is dropped
	maxWaivers  = 1000      // waivers
	maxEvidence = 21        // lines of one result, with the one that counts the others
	maxLine     = 240       // bytes of a line of evidence
	maxText     = 1000      // bytes of any other text
	maxFile     = 256 << 20 // bytes of a report that is read
)
