package profile

import (
	"crypto/ed25519"
	"crypto/rand"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

func goodRecord() *profilepb.TokenRecord {
	now := time.Now()
	return &profilepb.TokenRecord{
		Id: ident.New(), ClusterId: ident.New(), PublicKey: make([]byte, 32), Role: profilepb.Role_ROLE_WORKER,
		MintedAt: now.Unix(), ExpiresAt: now.Add(time.Hour).Unix(), MaxUses: 1, NodeName: "w1", Cidr: "10.0.0.0/8",
	}
}

func TestCheckToken(t *testing.T) {
	good := goodRecord()
	now := time.Unix(good.MintedAt, 0)
	if err := CheckToken(good, good.ClusterId, now); err != nil {
		t.Fatal(err)
	}
	if err := CheckToken(good, good.ClusterId, now.Add(time.Hour)); err != ErrTokenExpired {
		t.Errorf("at the second of expiry: %v", err)
	}
	cases := map[string]func(*profilepb.TokenRecord){
		"id":          func(r *profilepb.TokenRecord) { r.Id = "x" },
		"cluster":     func(r *profilepb.TokenRecord) { r.ClusterId = ident.New() },
		"key":         func(r *profilepb.TokenRecord) { r.PublicKey = nil },
		"boot role":   func(r *profilepb.TokenRecord) { r.Role = profilepb.Role_ROLE_BOOT },
		"no role":     func(r *profilepb.TokenRecord) { r.Role = 0 },
		"future":      func(r *profilepb.TokenRecord) { r.MintedAt += 3600; r.ExpiresAt += 3600 },
		"no minting":  func(r *profilepb.TokenRecord) { r.MintedAt = 0 },
		"backwards":   func(r *profilepb.TokenRecord) { r.ExpiresAt = r.MintedAt },
		"endless":     func(r *profilepb.TokenRecord) { r.ExpiresAt = 0 },
		"no limit":    func(r *profilepb.TokenRecord) { r.MaxUses = 0 },
		"name":        func(r *profilepb.TokenRecord) { r.NodeName = "../x" },
		"cidr":        func(r *profilepb.TokenRecord) { r.Cidr = "10.0.0.1/8" },
		"not an cidr": func(r *profilepb.TokenRecord) { r.Cidr = "all" },
	}
	for name, change := range cases {
		bad := proto.CloneOf(good)
		change(bad)
		if err := CheckToken(bad, good.ClusterId, now); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestOpenTokenRecord(t *testing.T) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(record []byte) *profilepb.SignedTokenRecord {
		return &profilepb.SignedTokenRecord{Record: record, Signature: ed25519.Sign(priv, TokenSigningInput(record))}
	}
	record, err := proto.Marshal(goodRecord())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenTokenRecord(pub, sign(record)); err != nil {
		t.Fatal(err)
	}
	unknown := protowire.AppendVarint(protowire.AppendTag(record[:len(record):len(record)], 99, protowire.VarintType), 1)
	if _, err := OpenTokenRecord(pub, sign(unknown)); err == nil {
		t.Error("a record with an unknown field was accepted")
	}
	s := sign(record)
	s.Signature = ed25519.Sign(priv, record) // without the label
	if _, err := OpenTokenRecord(pub, s); err == nil {
		t.Error("a signature of another purpose was accepted")
	}
}

func FuzzParseTokenRecord(f *testing.F) {
	good, err := proto.Marshal(goodRecord())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseTokenRecord(b); err == nil && CheckTokenShape(r) != nil {
			t.Error("accepted a malformed record")
		}
	})
}
