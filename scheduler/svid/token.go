package svid

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// token is a JWT-SVID that may be handed out until fresh, and is good until until.
type token struct {
	text         string
	fresh, until time.Time
}

// tokenCall waits for a token in one of the next batches.
type tokenCall struct {
	task, identity, name string
	audience             []string
	done                 chan struct{} // closed when text or err is set
	text                 string
	err                  error
}

// bucket counts uses; the zero value is full.
type bucket struct {
	spent int
	since time.Time
}

// take spends one, or says how long to wait for it.
func (b *bucket) take(burst int, refill time.Duration, now time.Time) (wait time.Duration) {
	if back := int(now.Sub(b.since) / refill); back >= b.spent {
		b.spent, b.since = 0, now
	} else if back > 0 {
		b.spent, b.since = b.spent-back, b.since.Add(time.Duration(back)*refill)
	}
	if b.spent >= burst {
		return refill - now.Sub(b.since)
	}
	b.spent++
	return 0
}

var errTooManyTokens = errors.New("this task asks for tokens for too many audiences: use those that it has until they end")

// fetchToken returns a token of the task for an audience, an earlier one while
// half of its life is left.
func (h *Holder) fetchToken(ctx context.Context, task string, audience []string) (string, error) {
	audience = slices.Clone(audience)
	slices.Sort(audience)
	if err := profile.CheckAudience(audience); err != nil {
		return "", err
	}
	name, _ := json.Marshal(audience) // no two lists have the same text
	now := time.Now()
	h.mu.Lock()
	e := h.tasks[task]
	switch {
	case e == nil || e.denied || h.c.Denied(e.want.Identity, now):
		h.mu.Unlock()
		return "", errNoIdentity
	case e.tokens[string(name)] != nil && now.Before(e.tokens[string(name)].fresh):
		defer h.mu.Unlock()
		return e.tokens[string(name)].text, nil
	case e.refill.take(tokenBurst, tokenRefill, now) > 0:
		h.mu.Unlock()
		return "", errTooManyTokens
	}
	c := &tokenCall{task: task, identity: e.want.Identity, name: string(name), audience: audience, done: make(chan struct{})}
	h.asked = append(h.asked, c)
	h.wake()
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, tokenWait)
	defer cancel()
	select {
	case <-c.done:
		return c.text, c.err
	case <-ctx.Done():
		return "", errors.New("no token came in time: the managers do not answer")
	}
}

// takeToken ends a call. The Holder's mu is held.
func (h *Holder) takeToken(c *tokenCall, doc *profilepb.WorkloadDocument, err error, now time.Time) {
	defer close(c.done)
	e := h.tasks[c.task]
	switch {
	case err != nil:
	case doc.GetError() != "":
		err = errors.New(doc.GetError())
	case e == nil || e.denied || e.want.Identity != c.identity:
		err = errNoIdentity
	default:
		var claims *claims
		if claims, err = h.verify(h.bundle, doc.GetToken(), c.audience[0], now); err == nil && claims.Sub != c.identity {
			err = errors.New("the token that came is not what was asked for")
		}
		if err == nil {
			e.keep(c.name, doc.GetToken(), time.Unix(claims.Exp, 0), now)
			h.report = true
		}
	}
	c.text, c.err = doc.GetToken(), err
}

// keep remembers a token, in the place of one that ends sooner where there are
// too many.
func (e *entry) keep(name, text string, until, now time.Time) {
	for n, t := range e.tokens {
		if !now.Before(t.until) {
			delete(e.tokens, n)
		}
	}
	for len(e.tokens) >= maxTokens {
		first := ""
		for n, t := range e.tokens {
			if first == "" || t.until.Before(e.tokens[first].until) {
				first = n
			}
		}
		delete(e.tokens, first)
	}
	e.tokens[name] = &token{text, now.Add(until.Sub(now) / 2), until}
}

// claims are those of a JWT-SVID that are looked at.
type claims struct {
	Sub string   `json:"sub"`
	Aud audience `json:"aud"`
	Exp int64    `json:"exp"`
	Iat int64    `json:"iat"`
}

// audience is a list, which may be written as a single text.
type audience []string

func (a *audience) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(a))
}

// verify returns the claims of a token of this cluster that is for that audience
// and good now.
func (h *Holder) verify(bundle *profilepb.WorkloadBundle, text, aud string, now time.Time) (*claims, error) {
	if len(text) > maxToken {
		return nil, fmt.Errorf("a token has at most %d bytes", maxToken)
	}
	part := strings.Split(text, ".")
	if len(part) != 3 {
		return nil, errors.New("a token has three parts")
	}
	var raw [3][]byte
	for i, p := range part {
		var err error
		if raw[i], err = base64.RawURLEncoding.Strict().DecodeString(p); err != nil {
			return nil, errors.New("the token is malformed")
		}
	}
	var head struct {
		Alg  string          `json:"alg"`
		Kid  string          `json:"kid"`
		Typ  string          `json:"typ"`
		Crit json.RawMessage `json:"crit"`
	}
	c := &claims{}
	if json.Unmarshal(raw[0], &head) != nil || json.Unmarshal(raw[1], c) != nil || head.Crit != nil || head.Typ != "" && head.Typ != "JWT" && head.Typ != "JOSE" {
		return nil, errors.New("the token is malformed")
	}
	i := slices.IndexFunc(bundle.GetKeys(), func(k *profilepb.WorkloadKey) bool { return k.GetId() == head.Kid })
	if head.Alg != "ES256" || i < 0 || len(raw[2]) != 64 {
		return nil, errors.New("the token was not signed by this cluster, or by a key that is gone")
	}
	public, err := profile.ParseBundleKey(bundle.GetKeys()[i])
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte(part[0] + "." + part[1]))
	if !ecdsa.Verify(public, digest[:], new(big.Int).SetBytes(raw[2][:32]), new(big.Int).SetBytes(raw[2][32:])) {
		return nil, errors.New("the token's signature does not verify")
	}
	cluster, _, _, err := profile.ParseServiceURI(c.Sub)
	switch {
	case err != nil || cluster != h.c.ClusterID:
		return nil, errors.New("the token is of no workload of this cluster")
	case !slices.Contains(c.Aud, aud):
		return nil, errors.New("the token is for another audience")
	case now.Unix() >= c.Exp || now.Add(skew).Unix() < c.Iat:
		return nil, errors.New("the token is not good now")
	case h.c.Denied(c.Sub, time.Unix(c.Iat, 0)):
		return nil, errors.New("the token's identity was revoked")
	}
	return c, nil
}
