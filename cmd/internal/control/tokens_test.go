package control_test

import (
	"slices"
	"testing"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

func TestTokens(t *testing.T) {
	w := newWorld(t)
	tok := pki.NewToken()
	create := func(change func(*controlpb.CreateTokenRequest)) (*controlpb.CreateTokenResponse, error) {
		req := &controlpb.CreateTokenRequest{Role: profilepb.Role_ROLE_WORKER, Id: tok.ID(), PublicKey: tok.PublicKey()}
		change(req)
		return w.api.CreateToken(t.Context(), req)
	}
	for name, change := range map[string]func(*controlpb.CreateTokenRequest){
		"negative": func(r *controlpb.CreateTokenRequest) { r.TtlSeconds = -1 },
		"endless":  func(r *controlpb.CreateTokenRequest) { r.TtlSeconds = 1 << 60 },
		"role":     func(r *controlpb.CreateTokenRequest) { r.Role = profilepb.Role_ROLE_BOOT },
		"id":       func(r *controlpb.CreateTokenRequest) { r.Id = "../x" },
		"key":      func(r *controlpb.CreateTokenRequest) { r.PublicKey = []byte("short") },
		"cidr":     func(r *controlpb.CreateTokenRequest) { r.Cidr = "everywhere" },
		"manager for ever": func(r *controlpb.CreateTokenRequest) {
			r.Role, r.LongLived = profilepb.Role_ROLE_MANAGER, true
		},
	} {
		if _, err := create(change); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			wantReason(t, err, apierr.ReasonInvalid, "")
		}
	}
	attest := func(r *controlpb.CreateTokenRequest) { r.Id, r.Attest = ident.New(), true }
	_, err := create(attest)
	wantReason(t, err, apierr.ReasonState, "none is believed")
	if _, err := w.api.UpdateAdmission(t.Context(), &controlpb.UpdateAdmissionRequest{Allow: [][]byte{make([]byte, 32)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := create(attest); err != nil {
		t.Error(err)
	}
	r, err := create(func(*controlpb.CreateTokenRequest) {})
	if err != nil || r.GetClusterId() != w.ca.ClusterID || string(r.GetRootSpkiSha256()) != string(w.ca.Pin()) ||
		!slices.Equal(r.GetManagers(), []string{"manager-1:2377"}) {
		t.Fatalf("%v %v", r, err)
	}
	if _, err := w.api.RevokeToken(t.Context(), &controlpb.RevokeTokenRequest{Id: tok.ID()}); err != nil {
		t.Fatal(err)
	}
	l, err := w.api.ListTokens(t.Context(), &controlpb.ListTokensRequest{})
	if err != nil || len(l.GetTokens()) != 2 || !slices.ContainsFunc(l.GetTokens(), func(v *controlpb.TokenView) bool { return v.GetRevoked() && v.GetRecord().GetId() == tok.ID() }) {
		t.Errorf("%v %v", l, err)
	}
	_, err = w.api.RevokeToken(t.Context(), &controlpb.RevokeTokenRequest{Id: ident.New()})
	wantReason(t, err, apierr.ReasonNotFound, "")
}
