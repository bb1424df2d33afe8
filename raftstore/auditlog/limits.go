package auditlog

const (
	// segmentLevel is the tree's level whose nodes are the roots of segments.
	segmentLevel = 10
	// SegmentEntries is how many entries a full segment has.
	SegmentEntries = 1 << segmentLevel
	// MaxRecordBytes bounds one record: the text of a policy is in one whole.
	MaxRecordBytes = 32 << 10
	// MaxEntries bounds the log: at a thousand records a minute it lasts for five
	// hundred years. The roots of as many have 8 MiB.
	MaxEntries = 1 << 28
	// MaxSegmentBytes bounds an encoded segment.
	MaxSegmentBytes = SegmentEntries * (entryHeadBytes + MaxRecordBytes + 32)
	entryHeadBytes  = 8 + 8 + 4
)
