package audit

import "time"

const (
	// aloneTimeout bounds the wait for a record that goes with no change.
	aloneTimeout = 10 * time.Second
	// maxValue bounds a value that is shown, in bytes, and maxReason a refusal.
	maxValue, maxReason = 160, 300
	// changesBytes is what the changes of one record may come to, so that a record
	// fits whatever the rest of it is; fieldOverhead is what a field has beside its
	// texts.
	changesBytes  = 6 << 10
	fieldOverhead = 12
	// documentBytes is what the texts of policies may come to beside that, and
	// omittedBytes the paths of what there is no room for.
	documentBytes = 16 << 10
	omittedBytes  = 2 << 10
	// documentOverhead is what the field of such a text has beside it.
	documentOverhead = 512
	// maxActs bounds what is told of a request, maxObject a name in it.
	maxActs, maxObject = 8, 128
	// maxDenied bounds the refused calls that are told apart within a minute,
	// maxDeniedNames the callers that are refused others, and maxDeniedSources those of
	// callers that are not known; maxDeniedAtOnce those that have a record at once, and
	// maxDeniedBytes one that another manager tells of.
	maxDenied, maxDeniedNames, maxDeniedSources = 128, 128, 64
	maxDeniedAtOnce, maxDeniedBytes             = 32, 2 << 10
	// lastTimeout bounds the wait for the last of them.
	lastTimeout = 2 * time.Second
	// maxElements bounds what is looked at of one list or map.
	maxElements = 4096
)
