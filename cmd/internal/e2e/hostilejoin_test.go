package e2e

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// joiner makes requests on one connection, as the holder of tok.
type joiner struct {
	pkipb.JoinClient
	tok      pki.Token
	exporter []byte
}

func (a *attack) joiner(t *testing.T, addr string, tok pki.Token) *joiner {
	t.Helper()
	cc, err := dial(t, addr, anyone(nil, pki.ALPNGRPC))
	if err != nil {
		t.Fatal(err)
	}
	cs := cc.TLS().ConnectionState()
	exporter, err := cs.ExportKeyingMaterial(profile.ExporterLabel, []byte(tok.ID()), profile.ExporterLen)
	if err != nil {
		t.Fatal(err)
	}
	return &joiner{pkipb.NewJoinClient(cc), tok, exporter}
}

func csr(t *testing.T) []byte {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := profile.NewCSR(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (j *joiner) request(t *testing.T, name string) *pkipb.JoinRequest {
	r := &pkipb.JoinRequest{TokenId: j.tok.ID(), NodeName: name, Csr: csr(t)}
	r.Proof = j.tok.Sign(profile.JoinProofInput(j.exporter, r.Csr, nil, r.TokenId))
	return r
}

// capturedJoin is a thief who saw everything that a joiner sent, on every
// manager, and who guesses.
func capturedJoin(t *testing.T, a *attack) {
	tok := a.token(t, "worker")
	refusal := ""
	refused := func(what string, j *joiner, r *pkipb.JoinRequest) {
		t.Helper()
		_, err := j.Join(t.Context(), r)
		switch msg := status.Convert(err).Message(); {
		case status.Code(err) != codes.PermissionDenied:
			t.Errorf("%s: %v", what, err)
		case refusal == "":
			refusal = msg
		case refusal != msg:
			t.Errorf("%s is told apart: %q, others %q", what, msg, refusal)
		}
	}
	honest := a.joiner(t, a.follower, tok)
	captured := honest.request(t, "victim")
	for _, addr := range []string{a.leader, a.follower} {
		refused("a captured join on another connection", a.joiner(t, addr, tok), captured)
	}
	bare, err := pki.NewToken().Bind(tok.ClusterID(), tok.Pin())
	if err != nil {
		t.Fatal(err)
	}
	thief := a.joiner(t, a.leader, tok) // the id, and so the exporter, without the seed
	guess := thief.request(t, "thief")
	guess.Proof = bare.Sign(profile.JoinProofInput(thief.exporter, guess.Csr, nil, tok.ID()))
	refused("the id of a token with another seed", thief, guess)
	unknown := a.joiner(t, a.leader, bare)
	refused("a token that was never made", unknown, unknown.request(t, "thief"))
	swapped := proto.CloneOf(captured)
	swapped.Csr = csr(t)
	refused("a proof over another request", honest, swapped)
	cut := proto.CloneOf(captured)
	cut.Proof = cut.Proof[:32]
	refused("half a proof", honest, cut)
	if got := a.uses(t, tok); got != "0/1" {
		t.Errorf("the token was used %s times by refused joins", got)
	}
	if _, err := honest.Join(t.Context(), captured); err != nil {
		t.Fatalf("the honest join through a follower: %v", err)
	}
	// Even on its own connection it is good for one answer.
	if _, err := honest.Join(t.Context(), captured); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the same join again: %v", err)
	}
	// A token makes what it says, whatever is asked for.
	boss := a.joiner(t, a.leader, a.token(t, "manager"))
	resp, err := boss.Join(t.Context(), boss.request(t, "small"))
	if err != nil || !resp.GetRetryAsRole() || resp.GetLeaf() != nil || resp.GetSealedKeyset() != nil {
		t.Errorf("a manager's token asking as a worker got %v, %v", resp, err)
	}
	small := a.joiner(t, a.leader, a.token(t, "worker"))
	r := &pkipb.JoinRequest{TokenId: small.tok.ID(), NodeName: "big", Csr: csr(t), BootCsr: csr(t), Address: "192.0.2.1:2377"}
	r.Proof = small.tok.Sign(profile.JoinProofInput(small.exporter, r.Csr, r.BootCsr, r.TokenId))
	resp, err = small.Join(t.Context(), r)
	if err != nil || !resp.GetRetryAsRole() || resp.GetRole() != profilepb.Role_ROLE_WORKER || resp.GetLeaf() != nil || resp.GetSealedKeyset() != nil {
		t.Errorf("a worker's token asking as a manager got %v, %v", resp, err)
	}
	// Revoked means at once.
	gone := a.joiner(t, a.leader, a.token(t, "worker"))
	a.ok(a.from, "join-token", "revoke", gone.tok.ID())
	if _, err := gone.Join(t.Context(), gone.request(t, "late")); !strings.Contains(fmt.Sprint(err), "revoked") {
		t.Errorf("a revoked token: %v", err)
	}
}

// tokensRace joins many times at once with a token that is good for one.
func tokensRace(t *testing.T, a *attack) {
	tok := a.token(t, "worker")
	const racers = 6
	var joiners []*joiner
	for i := range racers {
		joiners = append(joiners, a.joiner(t, []string{a.leader, a.follower}[i%2], tok))
	}
	start := make(chan struct{})
	errs := make(chan error, racers)
	for i, j := range joiners {
		r := j.request(t, fmt.Sprintf("racer-%d", i))
		go func() {
			<-start
			_, err := j.Join(t.Context(), r)
			errs <- err
		}()
	}
	close(start)
	won := 0
	for range racers {
		err := <-errs
		switch status.Code(err) {
		case codes.OK:
			won++
		case codes.PermissionDenied, codes.ResourceExhausted:
		default:
			t.Errorf("a loser was told: %v", err)
		}
	}
	if got := a.uses(t, tok); won != 1 || got != "1/1" {
		t.Errorf("%d joins won, the token counts %s", won, got)
	}
}
