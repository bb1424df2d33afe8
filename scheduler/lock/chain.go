package lock

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/strictpb"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
)

const chainPrefix = "RDTC1."

// Chain is one whose links were read and hang together. Complete says whether they are
// signed as they must be; only the last may not be.
type Chain struct {
	raw   *lockpb.Chain
	links []*lockpb.Link
	// missing is how many signatures the last link lacks.
	missing int
}

// ReadChain verifies every link. The last one may lack signatures, but has none that
// does not count.
func ReadChain(raw *lockpb.Chain) (*Chain, error) {
	if n := len(raw.GetLinks()); n == 0 || n > MaxLinks {
		return nil, refuse(RuleChain, "the chain has %d links: 1 to %d are allowed", n, MaxLinks)
	}
	if proto.Size(raw) > MaxChain {
		return nil, refuse(RuleChain, "the chain has more than %d bytes", MaxChain)
	}
	if strictpb.Unknown(raw) != "" {
		return nil, refuse(RuleChain, "the chain has fields that this version does not know")
	}
	c := &Chain{raw: raw}
	for i, e := range raw.GetLinks() {
		l := &lockpb.Link{}
		if err := proto.Unmarshal(e.GetPayload(), l); err != nil || strictpb.Unknown(l) != "" {
			return nil, refuse(RuleChain, "link %d is malformed, or of a newer version", i)
		}
		if err := c.follows(l); err != nil {
			return nil, err
		}
		by := l
		if i > 0 {
			by = c.links[i-1]
		}
		missing, err := signedBy(e, by)
		if err != nil {
			return nil, err
		}
		if missing > 0 && i < len(raw.GetLinks())-1 {
			return nil, refuse(RuleChain, "link %d lacks %d of the signatures that it needs", i, missing)
		}
		c.links, c.missing = append(c.links, l), missing
	}
	return c, nil
}

// follows returns an error unless l can be the next link.
func (c *Chain) follows(l *lockpb.Link) error {
	n := len(c.links)
	if l.GetNumber() != uint64(n) {
		return refuse(RuleChain, "link %d is at the place of link %d", l.GetNumber(), n)
	}
	if n == 0 && (len(l.GetPrevious()) > 0 || l.GetEnds() || !ident.Valid(l.GetClusterId())) {
		return refuse(RuleChain, "the first link does not begin a chain")
	}
	if n > 0 {
		was := c.links[n-1]
		switch {
		case was.GetEnds():
			return refuse(RuleChain, "link %d follows one that ends the lock", n)
		case !bytes.Equal(l.GetPrevious(), c.Digest(n-1)):
			return refuse(RuleChain, "link %d does not follow link %d", n, n-1)
		case l.GetClusterId() != was.GetClusterId():
			return refuse(RuleChain, "link %d is of another cluster", n)
		case l.GetVoidBefore() < was.GetVoidBefore():
			return refuse(RuleChain, "link %d takes back what link %d voided", n, n-1)
		}
	}
	if l.GetEnds() {
		if len(l.GetKeys()) > 0 || l.GetThreshold() != 0 {
			return refuse(RuleChain, "link %d ends the lock and names keys", n)
		}
		return nil
	}
	switch k := len(l.GetKeys()); {
	case k == 0 || k > MaxKeys:
		return refuse(RuleChain, "link %d has %d keys: 1 to %d are allowed", n, k, MaxKeys)
	case l.GetThreshold() == 0 || l.GetThreshold() > uint32(k):
		return refuse(RuleChain, "link %d asks for %d signatures of %d keys", n, l.GetThreshold(), k)
	case l.GetVoidBefore() < 0:
		return refuse(RuleChain, "link %d voids what was before time began", n)
	}
	seen := map[string]bool{}
	for _, key := range l.GetKeys() {
		if err := checkKey(key); err != nil {
			return err
		}
		if seen[name(key)] {
			return refuse(RuleChain, "link %d names a key twice", n)
		}
		seen[name(key)] = true
	}
	return nil
}

// signedBy counts what is missing. A signature by somebody else, or the second by one
// key, is refused.
func signedBy(e *lockpb.Envelope, by *lockpb.Link) (missing int, err error) {
	if len(e.GetSignatures()) > MaxKeys {
		return 0, refuse(RuleChain, "a link has %d signatures: at most %d are allowed", len(e.GetSignatures()), MaxKeys)
	}
	seen := map[string]bool{}
	for _, s := range e.GetSignatures() {
		switch {
		case !has(by, s.GetKey()):
			return 0, refuse(RuleChain, "link is signed by a key that the link before does not name")
		case seen[name(s.GetKey())]:
			return 0, refuse(RuleChain, "link is signed twice by one key")
		case !verifies(linkLabel, e.GetPayload(), s):
			return 0, refuse(RuleChain, "a signature of a link does not verify")
		}
		seen[name(s.GetKey())] = true
	}
	return max(0, int(by.GetThreshold())-len(seen)), nil
}

func has(l *lockpb.Link, k *lockpb.Key) bool {
	return checkKey(k) == nil && slices.ContainsFunc(l.GetKeys(), func(o *lockpb.Key) bool { return name(o) == name(k) })
}

// ParseChain reads a chain's text, strictly.
func ParseChain(text string) (*Chain, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), chainPrefix)
	if !ok {
		return nil, fmt.Errorf("this is no chain of a deployment lock: one begins with %s", chainPrefix)
	}
	if len(rest) > base64.RawURLEncoding.EncodedLen(MaxChain) {
		return nil, refuse(RuleChain, "the chain has more than %d bytes", MaxChain)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if err != nil || base64.RawURLEncoding.EncodeToString(b) != rest { // it skips line breaks
		return nil, errors.New("the chain is damaged: copy the file again")
	}
	raw := &lockpb.Chain{}
	if err := proto.Unmarshal(b, raw); err != nil {
		return nil, errors.New("the chain is damaged: copy the file again")
	}
	return ReadChain(raw)
}

// Text is the chain as people pass it on: nothing in it is secret.
func (c *Chain) Text() string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(c.raw)
	if err != nil {
		panic(err) // it was read
	}
	return chainPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// Links are shared: do not modify them.
func (c *Chain) Links() []*lockpb.Link { return c.links }

// Head is the link in force, once the chain is complete.
func (c *Chain) Head() *lockpb.Link { return c.links[len(c.links)-1] }

// Missing is how many signatures the last link lacks: 0 of a complete chain.
func (c *Chain) Missing() int { return c.missing }

// Signatures of the link of that number.
func (c *Chain) Signatures(n int) []*lockpb.Signature { return c.raw.GetLinks()[n].GetSignatures() }

// Proto is shared: do not modify it.
func (c *Chain) Proto() *lockpb.Chain { return c.raw }

// Digest names the link of that number, and all before it.
func (c *Chain) Digest(n int) []byte {
	sum := sha256.Sum256(c.raw.GetLinks()[n].GetPayload())
	return sum[:]
}

// HeadDigest names the head.
func (c *Chain) HeadDigest() []byte { return c.Digest(len(c.links) - 1) }

// Contains reports whether one of the links has that digest.
func (c *Chain) Contains(digest []byte) bool {
	for i := range c.links {
		if bytes.Equal(c.Digest(i), digest) {
			return true
		}
	}
	return false
}

// begins reports whether o begins with all links of c.
func (c *Chain) begins(o *Chain) bool {
	return len(c.links) <= len(o.links) && bytes.Equal(c.HeadDigest(), o.Digest(len(c.links)-1))
}

// New begins a chain by a link that is not signed yet.
func New(clusterID string, threshold uint32, keys []*lockpb.Key) (*Chain, error) {
	return (&Chain{raw: &lockpb.Chain{}}).with(&lockpb.Link{ClusterId: clusterID, Threshold: threshold, Keys: keys})
}

// Extend adds a link that is not signed yet, of which number, previous and cluster are
// filled in.
func (c *Chain) Extend(l *lockpb.Link) (*Chain, error) {
	if c.missing > 0 {
		return nil, errors.New("the last link of the chain lacks signatures: it is signed before the next is made")
	}
	l = proto.CloneOf(l)
	l.Number, l.Previous, l.ClusterId = uint64(len(c.links)), c.HeadDigest(), c.Head().GetClusterId()
	l.VoidBefore = max(l.VoidBefore, c.Head().GetVoidBefore())
	return c.with(l)
}

func (c *Chain) with(l *lockpb.Link) (*Chain, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(l)
	if err != nil {
		return nil, err
	}
	raw := proto.CloneOf(c.raw)
	raw.Links = append(raw.Links, &lockpb.Envelope{Payload: b})
	return ReadChain(raw)
}

// Sign adds a signature to the last link. It refuses a key that does not count there.
func (c *Chain) Sign(key ed25519.PrivateKey) (*Chain, error) {
	if c.missing == 0 {
		return nil, errors.New("the chain has all signatures that it needs")
	}
	raw := proto.CloneOf(c.raw)
	last := raw.Links[len(raw.Links)-1]
	own := sign(linkLabel, last.GetPayload(), key)
	if slices.ContainsFunc(last.GetSignatures(), func(s *lockpb.Signature) bool { return name(s.GetKey()) == name(own.GetKey()) }) {
		return nil, errors.New("this key has signed the last link already: pass the file on, somebody else must sign it, too")
	}
	last.Signatures = append(last.Signatures, own)
	return ReadChain(raw)
}

// Summary is the chain in a few words.
func (c *Chain) Summary() string {
	h := c.Head()
	if h.GetEnds() {
		return fmt.Sprintf("link %d %s ends the lock", h.GetNumber(), FormatDigest(c.HeadDigest())[:12])
	}
	return fmt.Sprintf("link %d %s, %d of %d keys", h.GetNumber(), FormatDigest(c.HeadDigest())[:12], h.GetThreshold(), len(h.GetKeys()))
}

// FormatDigest is the digest of a link as people compare it.
func FormatDigest(d []byte) string { return encoding.EncodeToString(d) }

// Newer is the longer one of a chain that is trusted, nil for none, and one that goes
// on from it or is its beginning. Both are verified.
func Newer(trusted, other *lockpb.Chain) (*Chain, error) {
	o, err := complete(other)
	if err != nil || trusted == nil {
		return o, err
	}
	c, err := complete(trusted)
	switch {
	case err != nil:
		return nil, err
	case c.begins(o):
		return o, nil
	case o.begins(c):
		return c, nil
	}
	return nil, refuse(RuleChain, "the service is signed under another chain than this node trusts")
}
