package pki_test

import (
	"crypto/x509"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// TestVerifiedBefore asks for the same chain again, at once and when the answer is
// another one: what is remembered must not outlive what it rests on.
func TestVerifiedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, other := pkitest.New(t), pkitest.New(t)
		n := ca.NewNode(t, manager)
		chain, err := profile.ParseChain(n.Credentials.Chain())
		if err != nil {
			t.Fatal(err)
		}
		want := pki.Expect{Roles: []profilepb.Role{manager}}
		trust := ca.Trust()
		verify := func(tr pki.Trust, presented []*x509.Certificate, want pki.Expect) error {
			_, err := tr.Verify(presented, want)
			return err
		}
		for range 2 {
			if err := verify(trust, chain, want); err != nil {
				t.Fatal(err)
			}
		}
		foreign, dropped, renamed := trust, trust, trust
		foreign.Roots, foreign.Issuers = other.Trust().Roots, other.Trust().Issuers
		dropped.Issuers = other.Trust().Issuers
		renamed.ClusterID = other.Trust().ClusterID
		for _, tc := range []struct {
			name  string
			trust pki.Trust
			chain []*x509.Certificate
			want  pki.Expect
			err   error
		}{
			{"under other roots", foreign, chain, want, pki.ErrUntrusted},
			{"after its issuer was dropped", dropped, chain, want, pki.ErrUntrusted},
			{"for another cluster", renamed, chain, want, pki.ErrOtherCluster},
			{"as a worker", trust, chain, pki.Expect{Roles: []profilepb.Role{profilepb.Role_ROLE_BOOT}}, pki.ErrWrongRole},
		} {
			if err := verify(tc.trust, tc.chain, tc.want); !errors.Is(err, tc.err) {
				t.Errorf("%s: %v, want %v", tc.name, err, tc.err)
			}
		}
		// To the last second, and no longer: each time within what is remembered.
		time.Sleep(time.Until(chain[0].NotAfter) - 5*time.Second)
		if err := verify(trust, chain, want); err != nil {
			t.Errorf("shortly before it ends: %v", err)
		}
		time.Sleep(10 * time.Second)
		if err := verify(trust, chain, want); !errors.Is(err, pki.ErrPeerExpired) {
			t.Errorf("after it has ended: %v", err)
		}
	})
}
