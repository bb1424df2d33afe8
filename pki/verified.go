package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/pki/profile"
)

// chainKey stands for all bytes that the result of verifying a chain depends on
// beside the time: the trust's certificates and those presented.
type chainKey [sha256.Size]byte

func (t Trust) chainKey(presented []*x509.Certificate) chainKey {
	b := make([]byte, 0, 8<<10)
	for _, part := range [][]*x509.Certificate{t.Roots, t.Issuers, t.Former, t.FormerRoots, t.Cross, presented} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		for _, c := range part {
			b = lp.Append(b, c.Raw)
		}
	}
	return sha256.Sum256(b)
}

// verifiedChain is what was found of one, good from..until, and no longer than
// verifiedLife after at: a better chain may have become good meanwhile.
type verifiedChain struct {
	id              profile.Identity // nobody writes to its slices
	rank            issuerRank
	external        bool // one of its good chains is below a CA outside of the cluster
	at, from, until time.Time
}

func (v verifiedChain) goodAt(now time.Time) bool {
	age := now.Sub(v.at)
	return 0 <= age && age < verifiedLife && !now.Before(v.from) && !now.After(v.until)
}

// verifiedChains remembers chains whose signatures were verified. A connection
// asks four times: to finish the handshake, to know who came, when it is admitted
// and when it is served; each time is two signatures, most of what a connection
// costs a manager. Only what does not change is remembered; whether the
// node is denied, expired or of the wrong role is asked each time. Chains that
// failed are not remembered.
type verifiedChains struct {
	mu sync.Mutex
	by map[chainKey]verifiedChain
}

var verified = verifiedChains{by: map[chainKey]verifiedChain{}}

func (c *verifiedChains) get(k chainKey, now time.Time) (verifiedChain, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.by[k]
	return v, ok && v.goodAt(now)
}

func (c *verifiedChains) put(k chainKey, v verifiedChain) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.by) >= maxVerified {
		for k, old := range c.by {
			if !old.goodAt(v.at) {
				delete(c.by, k)
			}
		}
		if len(c.by) >= maxVerified {
			clear(c.by)
		}
	}
	c.by[k] = v
}

// window is when every certificate of every chain is good.
func window(chains [][]*x509.Certificate) (from, until time.Time) {
	for i, c := range slices.Concat(chains...) {
		if i == 0 || c.NotBefore.After(from) {
			from = c.NotBefore
		}
		if i == 0 || c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	return from, until
}
