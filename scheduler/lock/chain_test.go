package lock

import (
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
)

// deployers makes n keys.
func deployers(n int) (all []ed25519.PrivateKey, public []*lockpb.Key) {
	for range n {
		k := NewSigner()
		all, public = append(all, k), append(public, PublicKey(k.Public().(ed25519.PublicKey)))
	}
	return all, public
}

func cosign(t *testing.T, c *Chain, keys ...ed25519.PrivateKey) *Chain {
	t.Helper()
	for _, k := range keys {
		var err error
		if c, err = c.Sign(k); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// newChain is of two of three keys.
func newChain(t *testing.T, cluster string) (*Chain, []ed25519.PrivateKey) {
	t.Helper()
	keys, public := deployers(3)
	c, err := New(cluster, 2, public)
	if err != nil {
		t.Fatal(err)
	}
	return cosign(t, c, keys[0], keys[1]), keys
}

func extend(t *testing.T, c *Chain, l *lockpb.Link) *Chain {
	t.Helper()
	out, err := c.Extend(l)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func isRule(err error, rule Rule) bool {
	var r *Refusal
	return errors.As(err, &r) && r.Rule == rule
}

func TestChain(t *testing.T) {
	c, keys := newChain(t, ident.New())
	if c.Missing() != 0 || len(c.Links()) != 1 {
		t.Fatalf("%d missing", c.Missing())
	}
	_, others := deployers(1)
	next := extend(t, c, &lockpb.Link{Threshold: 1, Keys: others, VoidBefore: 7})
	if next.Missing() != 2 {
		t.Errorf("%d missing of the second link", next.Missing())
	}
	if _, err := next.Extend(&lockpb.Link{Threshold: 1, Keys: others}); err == nil {
		t.Error("a link follows one that is not signed")
	}
	if _, err := complete(next.Proto()); !isRule(err, RuleChain) {
		t.Error(err)
	}
	next = cosign(t, next, keys[2], keys[0])
	if next.Missing() != 0 || next.Head().GetVoidBefore() != 7 || !next.Contains(c.HeadDigest()) || !c.begins(next) || next.begins(c) {
		t.Errorf("%+v", next.Head())
	}
	again, err := ParseChain(next.Text() + "\n")
	if err != nil || !proto.Equal(again.Proto(), next.Proto()) {
		t.Error(err)
	}
}

// TestBadChains does to a chain of three links what somebody could who carries it.
func TestBadChains(t *testing.T) {
	cluster := ident.New()
	c, keys := newChain(t, cluster)
	_, second := deployers(2)
	second[0] = PublicKey(keys[0].Public().(ed25519.PublicKey))
	c = cosign(t, extend(t, c, &lockpb.Link{Threshold: 1, Keys: second, VoidBefore: 5}), keys[0], keys[1])
	c = cosign(t, extend(t, c, &lockpb.Link{Threshold: 1, Keys: second}), keys[0])
	if _, err := complete(c.Proto()); err != nil {
		t.Fatal(err)
	}
	other, _ := newChain(t, cluster)
	relink := func(n int, f func(*lockpb.Link)) func(*lockpb.Chain) {
		return func(raw *lockpb.Chain) { // signed anew by who may
			l := &lockpb.Link{}
			if err := proto.Unmarshal(raw.Links[n].Payload, l); err != nil {
				t.Fatal(err)
			}
			f(l)
			raw.Links = raw.Links[:n+1]
			raw.Links[n].Payload, _ = proto.Marshal(l)
			raw.Links[n].Signatures = []*lockpb.Signature{sign(linkLabel, raw.Links[n].Payload, keys[0]), sign(linkLabel, raw.Links[n].Payload, keys[1])}
		}
	}
	for name, f := range map[string]func(*lockpb.Chain){
		"no link":              func(r *lockpb.Chain) { r.Links = nil },
		"cut at its beginning": func(r *lockpb.Chain) { r.Links = r.Links[1:] },
		"cut in the middle":    func(r *lockpb.Chain) { r.Links = append(r.Links[:1:1], r.Links[2]) },
		"reordered":            func(r *lockpb.Chain) { r.Links[1], r.Links[2] = r.Links[2], r.Links[1] },
		"another's beginning":  func(r *lockpb.Chain) { r.Links[0] = other.Proto().Links[0] },
		"a link twice":         func(r *lockpb.Chain) { r.Links = append(r.Links, r.Links[2]) },
		"a signature too few":  func(r *lockpb.Chain) { r.Links[1].Signatures = r.Links[1].Signatures[:1] },
		"no signature at the end": func(r *lockpb.Chain) {
			r.Links[2].Signatures = nil
		},
		"one key twice": func(r *lockpb.Chain) { r.Links[1].Signatures[1] = r.Links[1].Signatures[0] },
		"a stranger's signature": func(r *lockpb.Chain) {
			r.Links[1].Signatures[0] = sign(linkLabel, r.Links[1].Payload, NewSigner())
		},
		"signed as a statement": func(r *lockpb.Chain) {
			r.Links[1].Signatures[0] = sign(statementLabel, r.Links[1].Payload, keys[0])
		},
		"a bit of a signature": func(r *lockpb.Chain) { r.Links[1].Signatures[0].Signature[3] ^= 1 },
		"an empty signature":   func(r *lockpb.Chain) { r.Links[1].Signatures[0].Signature = nil },
		"another algorithm":    func(r *lockpb.Chain) { r.Links[1].Signatures[0].Key.Algorithm = 2 },
		"a bit of a payload":   func(r *lockpb.Chain) { r.Links[1].Payload[len(r.Links[1].Payload)-1] ^= 1 },
		"too many links": func(r *lockpb.Chain) {
			for range MaxLinks {
				r.Links = append(r.Links, r.Links[2])
			}
		},
		"too large": func(r *lockpb.Chain) {
			r.Links[2].Payload = make([]byte, MaxChain)
		},
		"an unknown field":        func(r *lockpb.Chain) { r.ProtoReflect().SetUnknown([]byte{0x78, 1}) },
		"an unknown field within": relink(1, func(l *lockpb.Link) { l.ProtoReflect().SetUnknown([]byte{0x78, 1}) }),
		"another cluster":         relink(1, func(l *lockpb.Link) { l.ClusterId = ident.New() }),
		"no cluster":              relink(0, func(l *lockpb.Link) { l.ClusterId = "x" }),
		"another's previous":      relink(1, func(l *lockpb.Link) { l.Previous = other.HeadDigest() }),
		"no threshold":            relink(1, func(l *lockpb.Link) { l.Threshold = 0 }),
		"k beyond n":              relink(1, func(l *lockpb.Link) { l.Threshold = 3 }),
		"no keys":                 relink(1, func(l *lockpb.Link) { l.Keys = nil }),
		"a key twice":             relink(1, func(l *lockpb.Link) { l.Keys[1] = l.Keys[0] }),
		"a key of no algorithm":   relink(1, func(l *lockpb.Link) { l.Keys[1].Algorithm = 0 }),
		"a short key":             relink(1, func(l *lockpb.Link) { l.Keys[1].Public = l.Keys[1].Public[:31] }),
		"ends, with keys":         relink(1, func(l *lockpb.Link) { l.Ends = true }),
		"begins with an end":      relink(0, func(l *lockpb.Link) { l.Ends, l.Keys, l.Threshold = true, nil, 0 }),
		"voids less":              relink(2, func(l *lockpb.Link) { l.VoidBefore = 4 }),
		"too many keys": relink(1, func(l *lockpb.Link) {
			_, l.Keys = deployers(MaxKeys + 1)
		}),
	} {
		raw := proto.CloneOf(c.Proto())
		f(raw)
		if _, err := complete(raw); !isRule(err, RuleChain) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, text := range []string{"", "RDTC1.", "RDTC2." + c.Text()[6:], c.Text()[:len(c.Text())-2], c.Text()[:40] + "\n" + c.Text()[40:], c.Text() + "=", "RDTC1." + strings.Repeat("A", MaxChain*2)} {
		if _, err := ParseChain(text); err == nil {
			t.Errorf("%.20q…: read", text)
		}
	}
}

func TestNothingFollowsAnEnd(t *testing.T) {
	c, keys := newChain(t, ident.New())
	c = cosign(t, extend(t, c, &lockpb.Link{Ends: true}), keys[0], keys[1])
	_, public := deployers(1)
	if _, err := c.Extend(&lockpb.Link{Threshold: 1, Keys: public}); !isRule(err, RuleChain) {
		t.Error(err)
	}
}

func TestKeys(t *testing.T) {
	_, public := deployers(1)
	text := FormatKey(public[0])
	if k, err := ParseKey(" " + text + "\n"); err != nil || !proto.Equal(k, public[0]) {
		t.Error(err)
	}
	for _, bad := range []string{"", "RDTD1.", text[:len(text)-1], text + "a", strings.ToUpper(text), "RDTD2." + text[6:]} {
		if _, err := ParseKey(bad); err == nil {
			t.Errorf("%q: read", bad)
		}
	}
}

// A second signature by one key is not made.
func TestSignTwice(t *testing.T) {
	keys, public := deployers(2)
	c, err := New(ident.New(), 2, public)
	if err != nil {
		t.Fatal(err)
	}
	c = cosign(t, c, keys[0])
	if _, err := c.Sign(keys[0]); err == nil || !strings.Contains(err.Error(), "has signed the last link already") {
		t.Errorf("the same key again: %v", err)
	}
	if c = cosign(t, c, keys[1]); c.Missing() != 0 {
		t.Errorf("%d signatures are missing", c.Missing())
	}
}

// FuzzChain: what is read hangs together, and is what is written.
func FuzzChain(f *testing.F) {
	keys, public := deployers(2)
	c, err := New(ident.New(), 1, public)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c.Text())
	c, _ = c.Sign(keys[0])
	f.Add(c.Text())
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseChain(text)
		if err != nil {
			return
		}
		again, err := ParseChain(c.Text())
		if err != nil || !proto.Equal(again.Proto(), c.Proto()) {
			t.Errorf("%q is read and %q is not: %v", text, c.Text(), err)
		}
	})
}
