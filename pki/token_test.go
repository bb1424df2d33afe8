package pki

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

func boundToken(t interface{ Fatal(...any) }) Token {
	tok, err := NewToken().Bind(ident.New(), bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestTokenRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pin := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "pin")
		tok, err := NewToken().Bind(ident.New(), pin)
		if err != nil {
			t.Fatal(err)
		}
		space := rapid.SampledFrom([]string{"", " ", "\n", "\r\n", "\t"})
		got, err := ParseToken(space.Draw(t, "before") + tok.Text() + space.Draw(t, "after"))
		if err != nil {
			t.Fatal(err)
		}
		if got.Text() != tok.Text() {
			t.Fatal("the token read is not the one written")
		}
		if !ed25519.Verify(tok.PublicKey(), []byte("x"), got.Sign([]byte("x"))) {
			t.Fatal("the key changed on the way")
		}
	})
}

func TestParseTokenRefusals(t *testing.T) {
	text := boundToken(t).Text()
	f := strings.Split(text, ".")
	with := func(i int, s string) string {
		g := append([]string(nil), f...)
		g[i] = s
		return strings.Join(g, ".")
	}
	cases := []struct {
		name, text string
		want       error
	}{
		{"empty", "", ErrTokenEmpty},
		{"blank", " \n", ErrTokenEmpty},
		{"prose", "hello", ErrTokenPrefix},
		{"swarm's", "SWMTKN-1-abc-def", ErrTokenPrefix},
		{"operator key", "RDTKEY-AAAA", ErrTokenPrefix},
		{"other version", with(0, "RDT2"), ErrTokenPrefix},
		{"prefix alone", "RDT1", ErrTokenTruncated},
		{"no cluster", strings.Join(f[:4], "."), ErrTokenTruncated},
		{"cut at the end", text[:len(text)-1], ErrTokenTruncated},
		{"an id for a link", text + "." + f[1], ErrTokenDamaged},
		{"trailing dot", text + ".", ErrTokenTruncated},
		{"damaged link", with(4, strings.ToUpper(f[3])+"."+f[4]), ErrTokenDamaged},
		{"seventh field", text + "." + f[3] + ".x", ErrTokenTail},
		{"upper case", strings.ToUpper(text[5:]), ErrTokenPrefix},
		{"seed upper case", with(2, strings.ToUpper(f[2])), ErrTokenDamaged},
		{"seed short", with(2, f[2][1:]), ErrTokenDamaged},
		{"seed not canonical", with(2, f[2][:51]+"b"), ErrTokenDamaged},
		{"pin with a newline", with(3, f[3][:10]+"\n"+f[3][10:]), ErrTokenDamaged},
		{"pin empty", with(3, ""), ErrTokenDamaged},
		{"id of a path", with(1, "////////////////////////aa"), ErrTokenDamaged},
		{"cluster long", text + "a", ErrTokenDamaged},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := ParseToken(tc.text); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
	if _, err := ParseToken(strings.Repeat("a", maxTokenText+1)); err == nil {
		t.Error("an endless token was accepted")
	}
}

func TestTokenIsNotShown(t *testing.T) {
	tok := boundToken(t)
	seed := strings.Split(tok.Text(), ".")[2]
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "token", tok, "pointer", &tok, "in", struct{ T Token }{tok})
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "token", tok, "in", struct{ T Token }{tok})
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb, tok)
		fmt.Fprintf(&out, verb, &tok)
		fmt.Fprintf(&out, verb, struct{ T Token }{tok})
		fmt.Fprintf(&out, verb, []Token{tok})
		fmt.Fprintf(&out, verb, struct{ t Token }{tok})
		fmt.Fprintf(&out, verb, struct{ t *Token }{&tok})
	}
	if b, err := json.Marshal(tok); err == nil {
		t.Errorf("a token was encoded: %s", b)
	}
	hex := fmt.Sprintf("%x", tok.seed())
	dec := fmt.Sprint(tok.seed())
	for _, secret := range []string{seed, hex, dec[1 : len(dec)-1]} {
		if strings.Contains(out.String(), secret) {
			t.Error("output shows the seed")
		}
	}
	if !strings.Contains(out.String(), tok.ID()) {
		t.Error("output does not even show the id")
	}
}

func FuzzParseToken(f *testing.F) {
	text := boundToken(f).Text()
	f.Add(text)
	f.Add(text[:40])
	f.Add(text + ".x")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err != nil {
			if len(s) > 20 && strings.Contains(err.Error(), s) {
				t.Error("the error quotes the token")
			}
			return
		}
		if tok.Text() != strings.TrimSpace(s) {
			t.Error("two texts give one token")
		}
	})
}

func TestTokenWithLock(t *testing.T) {
	token, err := NewToken().Bind(ident.New(), make([]byte, 32))
	if err != nil || len(token.Lock()) != 0 {
		t.Fatal(err)
	}
	head := bytes.Repeat([]byte{7}, 32)
	locked, err := token.WithLock(head)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseToken(locked.Text())
	if err != nil || !bytes.Equal(again.Lock(), head) || again.Text() != locked.Text() || again.ID() != token.ID() {
		t.Error(err)
	}
	if _, err := token.WithLock(head[:31]); err == nil {
		t.Error("a short digest is taken")
	}
	text := locked.Text()
	for n := range len(text) {
		// By chance, a cut in the link leaves what reads as the id of a cluster: of none
		// that has the root which the token pins.
		if cut, err := ParseToken(text[:n]); err == nil && cut.ClusterID() == token.ClusterID() {
			t.Errorf("cut after %d characters: a token without the lock", n)
		}
	}
}
