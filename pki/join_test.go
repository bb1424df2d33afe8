package pki_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

func TestJoinWorker(t *testing.T) {
	c := newCluster(t)
	tok := c.token(pki.TokenRequest{Role: worker})
	j, err := c.join(tok)
	if err != nil {
		t.Fatal(err)
	}
	n := c.node(j.NodeID)
	creds, err := pki.NewCredentials(j.Leaf, j.Key, j.Trust)
	if err != nil {
		t.Fatal(err)
	}
	if n.GetRole() != worker || n.GetName() != "n1" || n.GetAddress() != "" || n.GetTokenId() != tok.ID() ||
		string(n.GetLeafSpki()) != string(creds.Identity().SPKI) {
		t.Errorf("the record is not the joiner's: %v", n)
	}
	if len(j.Managers) != 1 || j.Managers[0].GetAddress() != "192.0.2.1:2377" {
		t.Errorf("managers: %v", j.Managers)
	}
	if c.hooks != 1 {
		t.Errorf("OnJoin ran %d times", c.hooks)
	}
	// The new certificate is accepted at once.
	cc, err := port.DialGRPC(t.Context(), creds, []string{c.addr})
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	_, err = pkipb.NewRenewClient(cc).Renew(t.Context(), &pkipb.RenewRequest{})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("renewal without a request: %v", err)
	}
	_, err = pkipb.NewJoinClient(cc).Join(t.Context(), &pkipb.JoinRequest{})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("join as a member: %v", err)
	}
}

func TestJoinManager(t *testing.T) {
	c := newCluster(t)
	j, err := c.join(c.token(pki.TokenRequest{Role: manager}))
	if err != nil {
		t.Fatal(err)
	}
	n := c.node(j.NodeID)
	if n.GetRole() != manager || n.GetAddress() != "192.0.2.9:2377" || len(n.GetBootSpki()) == 0 {
		t.Errorf("the record is not the joiner's: %v", n)
	}
	if string(j.Slots) != "slots" || len(j.SealedKeyset) == 0 || len(j.Managers) != 2 {
		t.Error("the manager did not get what managers need")
	}
	if _, err := pki.NewCredentials(j.Boot, j.BootKey, j.Trust); err != nil {
		t.Error(err)
	}
	_, err = c.join(c.token(pki.TokenRequest{Role: manager}), func(q *pki.JoinRequest) { q.Address = "" })
	if err == nil || !strings.Contains(err.Error(), "--advertise") {
		t.Errorf("a manager without an address: %v", err)
	}
}

func TestJoinRefusals(t *testing.T) {
	c := newCluster(t)
	refused := func(name, want string, tok pki.Token, change ...func(*pki.JoinRequest)) {
		t.Helper()
		_, err := c.join(tok, change...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want … %s …", name, err, want)
		}
	}
	used := c.token(pki.TokenRequest{Role: worker})
	if _, err := c.join(used); err != nil {
		t.Fatal(err)
	}
	refused("used up", "used up", used)

	revoked := c.token(pki.TokenRequest{Role: worker})
	if _, err := pki.RevokeToken(t.Context(), c.store, revoked.ID()[:8]); err != nil {
		t.Fatal(err)
	}
	refused("revoked", "revoked", revoked)

	expired := pki.NewToken()
	signed, err := c.SignRecord(&profilepb.TokenRecord{
		Id: expired.ID(), ClusterId: c.ClusterID, PublicKey: expired.PublicKey(), Role: worker,
		MintedAt: time.Now().Add(-time.Hour).Unix(), ExpiresAt: time.Now().Add(-time.Minute).Unix(), MaxUses: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	c.update(func(tx *raftstore.Tx) error {
		return store.Tokens.Put(tx, &pkipb.Token{Id: expired.ID(), Signed: signed})
	})
	refused("expired", "expired", c.bind(expired))

	refused("other name", "another name", c.token(pki.TokenRequest{Role: worker, NodeName: "db-3"}))
	refused("other network", "source address", c.token(pki.TokenRequest{Role: worker, CIDR: "192.0.2.0/24"}))
	if _, err := c.join(c.token(pki.TokenRequest{Role: worker, CIDR: "127.0.0.0/8", NodeName: "n1"})); err != nil {
		t.Errorf("a token that fits: %v", err)
	}
}

// TestJoinSaysNothing: an unknown id and a known id without its seed get the
// same answer.
func TestJoinSaysNothing(t *testing.T) {
	c := newCluster(t)
	known := c.token(pki.TokenRequest{Role: worker})
	stranger := c.bind(pki.NewToken())
	_, unknown := c.join(stranger)
	// The id of one token with the seed of another.
	f, g := strings.Split(known.Text(), "."), strings.Split(stranger.Text(), ".")
	f[2] = g[2]
	mixed, err := pki.ParseToken(strings.Join(f, "."))
	if err != nil {
		t.Fatal(err)
	}
	_, seedless := c.join(mixed)
	if unknown == nil || seedless == nil || unknown.Error() != seedless.Error() {
		t.Errorf("answers differ: %v / %v", unknown, seedless)
	}
	// Also for a revoked one: who lacks the seed learns nothing of its state.
	if _, err := pki.RevokeToken(t.Context(), c.store, known.ID()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.join(mixed); err == nil || err.Error() != unknown.Error() {
		t.Errorf("answers differ: %v / %v", unknown, err)
	}
}

func TestTokenBounds(t *testing.T) {
	c := newCluster(t)
	tok := pki.NewToken()
	for name, q := range map[string]pki.TokenRequest{
		"boot":               {Role: profilepb.Role_ROLE_BOOT},
		"no role":            {},
		"manager, two uses":  {Role: manager, MaxUses: 2},
		"manager, long":      {Role: manager, TTL: 48 * time.Hour},
		"manager long-lived": {Role: manager, LongLived: true},
		"worker, a year":     {Role: worker, TTL: 365 * 24 * time.Hour},
		"negative":           {Role: worker, TTL: -1},
		"too many uses":      {Role: worker, MaxUses: pki.MaxTokenUses + 1},
		"both":               {Role: worker, LongLived: true, MaxUses: 1},
		"cidr":               {Role: worker, CIDR: "10.0.0.1/8"},
		"name":               {Role: worker, NodeName: "a b"},
	} {
		q.ID, q.PublicKey = tok.ID(), tok.PublicKey()
		if _, err := pki.CreateToken(t.Context(), c.store, c.CA, q); !errors.Is(err, pki.ErrInvalidToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c.token(pki.TokenRequest{Role: worker, LongLived: true})
	list, err := pki.ListTokens(c.store)
	if err != nil || len(list) != 1 || list[0].Record.GetMaxUses() != 0 {
		t.Errorf("list: %v %v", list, err)
	}
	if _, err := pki.RevokeToken(t.Context(), c.store, ident.New()); !errors.Is(err, pki.ErrNoToken) {
		t.Errorf("revoking a token that is not there: %v", err)
	}
}

// wrongClock is a machine's clock that somebody sets.
type wrongClock struct{ off atomic.Int64 }

func (c *wrongClock) Confirm(context.Context) (string, error) { return "", nil }
func (c *wrongClock) Now() time.Time                          { return time.Now().Add(time.Duration(c.off.Load())) }

// TestClockSetBack: a leader's clock that is set back a year brings back no token that
// had ended, nor a promotion that was not taken up.
func TestClockSetBack(t *testing.T) {
	const year = 365 * 24 * time.Hour
	clock := new(wrongClock)
	c := newClusterOn(t, raftstoretest.NewAt(t, clock, store.Tables()...))
	ended := c.token(pki.TokenRequest{Role: worker})
	asManager := c.token(pki.TokenRequest{Role: manager})
	waiting, err := c.join(c.token(pki.TokenRequest{Role: worker}))
	if err != nil {
		t.Fatal(err)
	}
	want := func(until time.Time) {
		c.update(func(tx *raftstore.Tx) error {
			n := proto.CloneOf(c.node(waiting.NodeID))
			n.PromoteUntil = until.Unix()
			return store.Nodes.Put(tx, n)
		})
	}
	want(time.Now().Add(10 * time.Minute))
	clock.off.Store(int64(year))
	c.update(func(tx *raftstore.Tx) error { return store.Tokens.Put(tx, &pkipb.Token{Id: ident.New()}) }) // a year later
	clock.off.Store(0)
	for role, tok := range map[string]pki.Token{"worker": ended, "manager": asManager} {
		if _, err := c.join(tok); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("%s: a token that ended a year ago: %v", role, err)
		}
	}
	c.update(func(tx *raftstore.Tx) error {
		if n, _ := store.Nodes.Get(tx, waiting.NodeID); pki.Wanted(n, tx.Now()) {
			t.Error("a promotion that ended a year ago")
		}
		return nil
	})
	if _, err := c.join(c.token(pki.TokenRequest{Role: worker})); err != nil {
		t.Errorf("a token that is made now: %v", err)
	}
}
