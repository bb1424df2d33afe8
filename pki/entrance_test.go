package pki_test

import (
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
)

// TestEnrolRate: whoever guesses invitations is told so in words that are about
// invitations, and shuts nobody out who has one.
func TestEnrolRate(t *testing.T) {
	c := newCluster(t)
	made, err := pki.NewInvitation().Bind(c.ClusterID, c.Pin(), []string{c.addr})
	if err != nil {
		t.Fatal(err)
	}
	slowed := false
	for range 40 {
		_, err := pki.TakeInvitation(t.Context(), made)
		if err == nil || strings.Contains(err.Error(), "join") || strings.Contains(err.Error(), "token") {
			t.Fatalf("a guessed invitation: %v", err)
		}
		slowed = slowed || strings.Contains(err.Error(), "too many attempts from this address had no invitation")
	}
	if !slowed {
		t.Error("guessing is not slowed down")
	}
	if _, err := pki.TakeInvitation(t.Context(), c.invite("alice")); err != nil {
		t.Errorf("behind the guesser's address: %v", err)
	}
}

// TestEnrolIsForNobody: who shows a certificate, or comes from nowhere, takes none.
func TestEnrolIsForNobody(t *testing.T) {
	_, err := pki.NewPeopleServer(nil, nil, "", slog.New(slog.DiscardHandler)).Enrol(t.Context(), &pkipb.EnrolRequest{})
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "for people who take an invitation") {
		t.Error(err)
	}
}
