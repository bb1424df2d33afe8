package dockerapi

import (
	"sync"
	"time"
)

// once keeps what was made for a caller and is fetched by the caller's next requests, as
// Docker's command does: an unlock key, a join token. It is that user's alone, and gone
// after a minute. It is safe for concurrent use.
type once struct {
	mu   sync.Mutex
	kept map[onceKey]*onceValue
}

type onceKey struct {
	uid  uint32
	what string
}

type onceValue struct {
	secret []byte
	end    *time.Timer
}

// keep takes secret over.
func (o *once) keep(uid uint32, what string, secret []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	k := onceKey{uid, what}
	o.dropLocked(k)
	if o.kept == nil {
		o.kept = map[onceKey]*onceValue{}
	}
	if len(o.kept) >= maxOnce { // they were made, and somebody has lost one: it is made again
		for old := range o.kept {
			o.dropLocked(old)
			break
		}
	}
	v := &onceValue{secret: secret}
	o.kept[k] = v
	v.end = time.AfterFunc(onceFor, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.kept[k] == v {
			o.dropLocked(k)
		}
	})
}

// look returns it and keeps it, take returns it and forgets it; nil: there is none. The
// caller wipes what it gets.
func (o *once) look(uid uint32, what string) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	if v := o.kept[onceKey{uid, what}]; v != nil {
		return append([]byte(nil), v.secret...)
	}
	return nil
}

func (o *once) take(uid uint32, what string) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	k := onceKey{uid, what}
	v := o.kept[k]
	if v == nil {
		return nil
	}
	out := append([]byte(nil), v.secret...)
	o.dropLocked(k)
	return out
}

func (o *once) dropLocked(k onceKey) {
	if v := o.kept[k]; v != nil {
		v.end.Stop()
		clear(v.secret)
		delete(o.kept, k)
	}
}

// wipe forgets all.
func (o *once) wipe() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for k := range o.kept {
		o.dropLocked(k)
	}
}
