package keyd

import (
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

func TestMintTokenBounds(t *testing.T) {
	c := newCluster(t)
	in := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	for name, tc := range map[string]struct {
		role profilepb.Role
		edit func(*profilepb.TokenRecord)
		want keydpb.Code
	}{
		"worker":                  {worker, func(*profilepb.TokenRecord) {}, 0},
		"manager":                 {manager, func(*profilepb.TokenRecord) {}, 0},
		"long-lived worker":       {worker, func(r *profilepb.TokenRecord) { r.ExpiresAt, r.MaxUses = 0, 0 }, 0},
		"many uses":               {worker, func(r *profilepb.TokenRecord) { r.MaxUses = maxWorkerUses }, 0},
		"long-lived manager":      {manager, func(r *profilepb.TokenRecord) { r.ExpiresAt, r.MaxUses = 0, 0 }, keydpb.Code_CODE_DENIED},
		"manager for two":         {manager, func(r *profilepb.TokenRecord) { r.MaxUses = 2 }, keydpb.Code_CODE_DENIED},
		"manager for two days":    {manager, func(r *profilepb.TokenRecord) { r.ExpiresAt = in(48 * time.Hour) }, keydpb.Code_CODE_DENIED},
		"worker for two years":    {worker, func(r *profilepb.TokenRecord) { r.ExpiresAt = in(2 * maxWorkerToken) }, keydpb.Code_CODE_DENIED},
		"too many uses":           {worker, func(r *profilepb.TokenRecord) { r.MaxUses = maxWorkerUses + 1 }, keydpb.Code_CODE_DENIED},
		"another cluster":         {worker, func(r *profilepb.TokenRecord) { r.ClusterId = ident.New() }, keydpb.Code_CODE_DENIED},
		"boot role":               {boot, func(*profilepb.TokenRecord) {}, keydpb.Code_CODE_INVALID},
		"no role":                 {0, func(*profilepb.TokenRecord) {}, keydpb.Code_CODE_INVALID},
		"expired":                 {worker, func(r *profilepb.TokenRecord) { r.ExpiresAt = in(-time.Hour) }, keydpb.Code_CODE_INVALID},
		"no expiry but uses":      {worker, func(r *profilepb.TokenRecord) { r.ExpiresAt = 0 }, keydpb.Code_CODE_INVALID},
		"short public key":        {worker, func(r *profilepb.TokenRecord) { r.PublicKey = r.PublicKey[1:] }, keydpb.Code_CODE_INVALID},
		"path as a name":          {worker, func(r *profilepb.TokenRecord) { r.NodeName = "../etc" }, keydpb.Code_CODE_INVALID},
		"prefix with host bits":   {worker, func(r *profilepb.TokenRecord) { r.Cidr = "10.0.0.1/8" }, keydpb.Code_CODE_INVALID},
		"id that is not ours":     {worker, func(r *profilepb.TokenRecord) { r.Id = "x" }, keydpb.Code_CODE_INVALID},
		"minted at a chosen time": {worker, func(r *profilepb.TokenRecord) { r.MintedAt = 1 }, 0}, // overwritten
	} {
		rec, _ := newRecord(t, tc.role)
		tc.edit(rec)
		resp, err := c.MintToken(t.Context(), &keydpb.MintTokenRequest{Record: rec})
		if keyd := codeName(err); keyd != tc.want {
			t.Errorf("%s: got %v (%v), want %v", name, keyd, err, tc.want)
		}
		if err != nil {
			continue
		}
		got, err := profile.OpenTokenRecord(c.server.secrets.keyset.records, resp.Signed)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got.ClusterId != c.init.ClusterId || time.Since(time.Unix(got.MintedAt, 0)) > time.Minute {
			t.Errorf("%s: keyd signed %v", name, got)
		}
	}
	_, err := c.MintToken(t.Context(), &keydpb.MintTokenRequest{})
	wantCode(t, err, keydpb.Code_CODE_INVALID)
}

func TestManagerTokensAreRateLimited(t *testing.T) {
	c := newCluster(t)
	for range managerRate.burst {
		c.mint(t, manager, nil)
	}
	rec, _ := newRecord(t, manager)
	_, err := c.MintToken(t.Context(), &keydpb.MintTokenRequest{Record: rec})
	wantCode(t, err, keydpb.Code_CODE_RATE_LIMITED)
	c.mint(t, worker, nil) // others are not held up
}
