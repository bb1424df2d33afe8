package pki

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// FuzzJoinRequest: all that a caller without a certificate can make a manager
// parse is refused with a status, never a panic, and what passes has the form
// that the rest relies on.
func FuzzJoinRequest(f *testing.F) {
	_, csr, err := newRequest(nil)
	if err != nil {
		f.Fatal(err)
	}
	for _, r := range []*pkipb.JoinRequest{
		{}, {TokenId: ident.New(), NodeName: "n", Csr: csr, Proof: make([]byte, 64)},
		{TokenId: ident.New(), NodeName: "n", Csr: csr, BootCsr: csr, Address: "192.0.2.1:2377"},
		{TokenId: ident.New(), NodeName: "-", Csr: csr[:len(csr)/2]},
	} {
		b, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		req := new(pkipb.JoinRequest)
		if proto.Unmarshal(b, req) != nil {
			return
		}
		_, err := parseJoin(req)
		switch status.Code(err) {
		case codes.PermissionDenied, codes.InvalidArgument:
			return
		case codes.OK:
		default:
			t.Fatalf("parsing ended with %v", err)
		}
		c, err := profile.ParseCSR(req.GetCsr())
		if err != nil || !ident.Valid(req.GetTokenId()) {
			t.Fatalf("a malformed request passed: %v", err)
		}
		j := &join{JoinRequest: req, csr: c}
		if len(req.GetBootCsr()) > 0 {
			if j.boot, err = profile.ParseCSR(req.GetBootCsr()); err != nil {
				t.Fatal(err)
			}
		}
		if j.form(profilepb.Role_ROLE_MANAGER) && j.form(profilepb.Role_ROLE_WORKER) {
			t.Error("a request is of both roles")
		}
	})
}
