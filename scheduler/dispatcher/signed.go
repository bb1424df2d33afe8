package dispatcher

import (
	"bytes"
	"crypto/sha256"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// signedFor is what says that somebody wants tasks of that revision to run: the newest
// that there is. A service is signed anew also where that makes no revision.
func signedFor(r raftstore.Reader, rev *schedulerpb.Revision) []byte {
	svc, ok := store.Services.Get(r, rev.GetServiceId())
	if ok && store.RevisionID(svc.GetId(), svc.GetRevision()) == rev.GetId() {
		return svc.GetSigned()
	}
	return rev.GetSigned()
}

// resigned is the id of the service that an event signs anew, or empty.
func resigned(e raftstore.Event) string {
	old, now, ok := store.Services.Event(e)
	if !ok || old == nil || now == nil || bytes.Equal(old.GetSigned(), now.GetSigned()) {
		return ""
	}
	return now.GetId()
}

func digest(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	sum := sha256.Sum256(b)
	return string(sum[:])
}
