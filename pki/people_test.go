package pki_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

func (c *cluster) invite(name string, change ...func(*pki.Invite)) pki.Invitation {
	c.t.Helper()
	i := pki.NewInvitation()
	q := pki.Invite{Name: name, ID: i.ID(), PublicKey: i.PublicKey(), By: "the test"}
	for _, f := range change {
		f(&q)
	}
	if _, _, err := pki.InvitePerson(c.t.Context(), c.store, c.CA, q); err != nil {
		c.t.Fatal(err)
	}
	i, err := i.Bind(c.ClusterID, c.Pin(), []string{c.addr})
	if err != nil {
		c.t.Fatal(err)
	}
	return i
}

// person is somebody who took an invitation, and reaches the cluster where it listens.
func (c *cluster) person(name string) *pki.Person {
	c.t.Helper()
	p, err := pki.TakeInvitation(c.t.Context(), c.invite(name))
	if err != nil {
		c.t.Fatal(err)
	}
	return c.here(p)
}

// here is the person with the address of the test's port, not that on record.
func (c *cluster) here(p *pki.Person) *pki.Person {
	c.t.Helper()
	p, err := pki.NewPerson(p.Chain, p.Key, p.Roots(), []string{c.addr})
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

func (c *cluster) record(name string) *pkipb.Person {
	p, err := store.Directory{Store: c.store}.Person(name)
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

// renew has the person renew over a connection of its own.
func (c *cluster) renew(p *pki.Person) (*pki.Person, error) {
	cc, err := port.DialPerson(c.t.Context(), p)
	if err != nil {
		return nil, err
	}
	defer cc.Close()
	next, err := p.Renew(c.t.Context(), cc)
	if err != nil {
		return nil, err
	}
	return c.here(next), nil
}

func TestInvitationText(t *testing.T) {
	i, err := pki.NewInvitation().Bind(ident.New(), make([]byte, 32), []string{"192.0.2.1:2377", "[2001:db8::1]:2377", "m3.example.org:2377"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := pki.ParseInvitation(" " + i.Text() + "\n")
	if err != nil || got.Text() != i.Text() || got.ID() != i.ID() || len(got.Managers()) != 3 || string(got.PublicKey()) != string(i.PublicKey()) {
		t.Fatalf("%v, %v", got, err)
	}
	f := strings.SplitN(i.Text(), ".", 6)
	seed := f[2]
	for _, shown := range []string{fmt.Sprint(i), fmt.Sprintf("%+v %#v %s %x", i, i, i, i), fmt.Sprint(i.LogValue())} {
		if strings.Contains(shown, seed) {
			t.Errorf("%q shows the seed", shown)
		}
	}
	if _, err := i.MarshalText(); err == nil {
		t.Error("an invitation can be encoded")
	}
	with := func(n int, s string) string {
		g := append([]string(nil), f...)
		g[n] = s
		return strings.Join(g, ".")
	}
	for name, text := range map[string]string{
		"nothing": "", "a token": "RDT1." + strings.Join(f[1:5], "."), "upper case": strings.ToUpper(i.Text()), "cut": i.Text()[:60], "no managers": strings.Join(f[:5], "."),
		"an empty manager": i.Text() + ",", "no port": with(5, "192.0.2.1"), "an id": with(1, "x"), "a seed": with(2, seed[1:]), "a seed's end": with(2, seed[:51]+"z"),
		"a pin": with(3, "a"), "a cluster": with(4, "a"), "long": i.Text() + strings.Repeat(",a:1", 2000), "two": i.Text() + " " + i.Text(), "inside": with(5, "a:1 ,b:1"),
	} {
		if _, err := pki.ParseInvitation(text); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), seed[:20]) {
			t.Errorf("%s: %v shows the seed", name, err)
		}
	}
}

func FuzzInvitationText(f *testing.F) {
	i, err := pki.NewInvitation().Bind(ident.New(), make([]byte, 32), []string{"192.0.2.1:2377"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(i.Text())
	f.Add("RDTI1.....")
	f.Fuzz(func(t *testing.T, text string) {
		i, err := pki.ParseInvitation(text)
		if err == nil && i.Text() != strings.TrimSpace(text) {
			t.Errorf("%q is read as %q", text, i.Text())
		}
	})
}

func TestPerson(t *testing.T) {
	c := newCluster(t)
	i := c.invite("alice", func(q *pki.Invite) { q.Life = time.Hour })
	p, err := pki.TakeInvitation(t.Context(), i)
	if err != nil {
		t.Fatal(err)
	}
	if life := time.Until(p.NotAfter()); p.Name() != "alice" || p.ClusterID() != c.ClusterID || life > time.Hour || life < 55*time.Minute || p.Managers[0] != "192.0.2.1:2377" {
		t.Errorf("%s of %s for %s, managers %v", p.Name(), p.ClusterID(), life, p.Managers)
	}
	if p.Due(time.Now()) || !p.Due(time.Now().Add(41*time.Minute)) || p.Due(time.Now().Add(39*time.Minute)) {
		t.Error("it is not due at two thirds of its life")
	}
	p = c.here(p)
	next, err := c.renew(p)
	if err != nil {
		t.Fatal(err)
	}
	if next.Key.Equal(p.Key) || !next.NotAfter().After(p.NotAfter().Add(-time.Second)) {
		t.Error("the next certificate has the old key, or ends before")
	}
	// The answer may have been lost: the one before is good until the next is shown.
	if _, err := c.renew(p); err != nil {
		t.Errorf("the certificate before: %v", err)
	}
	// That took the place of `next`, which is now nobody's.
	if _, err := c.renew(next); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "newer certificate") {
		t.Errorf("a certificate that was replaced: %v", err)
	}
}

// TestInvitationOnce: of several who take an invitation at the same time one does, and
// nobody after.
func TestInvitationOnce(t *testing.T) {
	c := newCluster(t)
	i := c.invite("alice")
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for n := range errs {
		wg.Go(func() { _, errs[n] = pki.TakeInvitation(t.Context(), i) })
	}
	wg.Wait()
	took := 0
	for _, err := range errs {
		if err == nil {
			took++
		} else if !strings.Contains(err.Error(), "the invitation is not accepted") && !strings.Contains(err.Error(), "manager's log") && !strings.Contains(err.Error(), "see the log") {
			t.Error(err)
		}
	}
	if took != 1 {
		t.Errorf("%d took one invitation: %v", took, errs)
	}
	if _, err := pki.TakeInvitation(t.Context(), i); err == nil || !strings.Contains(err.Error(), "not accepted") {
		t.Errorf("a used invitation: %v", err)
	}
	if rec := c.record("alice"); rec.GetInvitation() != nil || rec.GetInvitationId() != "" {
		t.Error("the invitation is still there")
	}
}

func TestInvitationRefused(t *testing.T) {
	c, other := newCluster(t), newCluster(t)
	refused := func(what string, i pki.Invitation, want string) {
		t.Helper()
		if _, err := pki.TakeInvitation(t.Context(), i); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Another cluster answers, or somebody in the middle.
	foreign := other.invite("alice")
	moved, err := pki.ParseInvitation(strings.Replace(foreign.Text(), other.addr, c.addr, 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.TakeInvitation(t.Context(), moved); !errors.Is(err, pki.ErrOtherCluster) {
		t.Errorf("an invitation of another cluster: %v", err)
	}
	middle, err := pki.NewInvitation().Bind(c.ClusterID, other.Pin(), []string{c.addr})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.TakeInvitation(t.Context(), middle); !errors.Is(err, pki.ErrUntrusted) {
		t.Errorf("another root: %v", err)
	}
	// A seed that nobody was given.
	made, err := pki.NewInvitation().Bind(c.ClusterID, c.Pin(), []string{c.addr})
	if err != nil {
		t.Fatal(err)
	}
	refused("made up", made, "not accepted")
	// The right id with another seed.
	f, g := strings.SplitN(c.invite("bob").Text(), ".", 6), strings.SplitN(made.Text(), ".", 6)
	f[2] = g[2]
	guessed, err := pki.ParseInvitation(strings.Join(f, "."))
	if err != nil {
		t.Fatal(err)
	}
	refused("another seed", guessed, "not accepted")
	// Taken back, replaced, ended.
	back := c.invite("carol")
	c.update(func(tx *raftstore.Tx) error { return pki.RevokePerson(tx, "carol") })
	refused("revoked", back, "not accepted")
	if _, _, err := pki.InvitePerson(t.Context(), c.store, c.CA, pki.Invite{Name: "carol", ID: ident.New(), PublicKey: back.PublicKey()}); !errors.Is(err, pki.ErrPersonRevoked) {
		t.Errorf("a revoked person is invited: %v", err)
	}
	c.update(func(tx *raftstore.Tx) error { return pki.RemovePerson(tx, "carol") })
	refused("removed", back, "not accepted")
	// What is asked of the store is asked again where the invitation is stored.
	for n := range 2 {
		asked, no := 0, errors.New("not that one")
		q := pki.Invite{Name: "carol", ID: ident.New(), PublicKey: back.PublicKey(), May: func(raftstore.Reader) error {
			if asked++; asked > n {
				return no
			}
			return nil
		}}
		if _, _, err := pki.InvitePerson(t.Context(), c.store, c.CA, q); !errors.Is(err, no) || asked != n+1 {
			t.Errorf("asked %d times: %v", asked, err)
		}
	}
	first := c.invite("dora")
	c.invite("dora")
	refused("replaced", first, "not accepted")
	brief := c.invite("erin", func(q *pki.Invite) { q.TTL = time.Second })
	// Not by the machine's clock, which goes on; by the cluster's, which is ahead.
	for time.Now().Before(time.Unix(c.recordOf(brief), 0)) {
		c.update(func(tx *raftstore.Tx) error { return nil })
	}
	refused("ended", brief, "expired")
	// Of a keyset of before.
	old := c.invite("frank")
	c.update(func(tx *raftstore.Tx) error {
		cl, err := store.GetCluster(tx)
		if err != nil {
			return err
		}
		cl = proto.CloneOf(cl)
		cl.KeysetEpoch, cl.TokenEpoch = 2, 2
		return store.Cluster.Put(tx, cl)
	})
	refused("of before a rotation", old, "not accepted")
	c.port.Lock()
	if _, err := pki.TakeInvitation(t.Context(), old); !errors.Is(err, pki.ErrPeerLocked) {
		t.Errorf("a locked manager: %v", err)
	}
}

// recordOf is when an invitation ends.
func (c *cluster) recordOf(i pki.Invitation) (end int64) {
	c.t.Helper()
	if err := c.store.View(func(r *raftstore.ReadTx) error {
		for p := range store.People.By(r, "invitation", i.ID()) {
			rec, err := profile.ParseInvitation(p.GetInvitation().GetRecord())
			end = rec.GetExpiresAt()
			return err
		}
		return errors.New("there is no such invitation")
	}); err != nil {
		c.t.Fatal(err)
	}
	return end
}

func TestBadInvites(t *testing.T) {
	c := newCluster(t)
	key := pki.NewInvitation().PublicKey()
	for name, q := range map[string]pki.Invite{
		"no name": {}, "a bad name": {Name: "Alice"}, "an id": {Name: ident.New()}, "a slash": {Name: "a/b"},
		"too long": {Name: "a", TTL: 169 * time.Hour}, "no time": {Name: "a", TTL: time.Millisecond},
		"short-lived": {Name: "a", Life: time.Minute}, "long-lived": {Name: "a", Life: 169 * time.Hour}, "odd": {Name: "a", Life: 5*time.Minute + time.Nanosecond},
	} {
		q.ID, q.PublicKey = ident.New(), key
		if _, _, err := pki.InvitePerson(t.Context(), c.store, c.CA, q); !errors.Is(err, pki.ErrInvalidInvitation) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := c.store.Update(t.Context(), func(tx *raftstore.Tx) error { return pki.RevokePerson(tx, "nobody") }); !errors.Is(err, pki.ErrNoPerson) {
		t.Error(err)
	}
	if err := c.store.Update(t.Context(), func(tx *raftstore.Tx) error { return pki.RemovePerson(tx, "nobody") }); !errors.Is(err, pki.ErrNoPerson) {
		t.Error(err)
	}
}

// TestPersonIsCutOff: a revoked person's connection ends by itself, and each further one
// is told why.
func TestPersonIsCutOff(t *testing.T) {
	for verb, cut := range map[string]func(*raftstore.Tx) error{
		"revoke": func(tx *raftstore.Tx) error { return pki.RevokePerson(tx, "alice") },
		"rm":     func(tx *raftstore.Tx) error { return pki.RemovePerson(tx, "alice") },
		"moved":  nil,
	} {
		t.Run(verb, func(t *testing.T) {
			c := newCluster(t)
			alice, bob := c.person("alice"), c.person("bob")
			dial := func(p *pki.Person) *pki.GRPCConn {
				cc, err := port.DialPerson(t.Context(), p)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { cc.Close() })
				if _, err := p.Renew(t.Context(), cc); err != nil {
					t.Fatal(err)
				}
				return cc
			}
			hers, his := dial(alice), dial(bob)
			if cut != nil {
				c.update(cut)
			} else if _, err := pki.TakeInvitation(t.Context(), c.invite("alice")); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if !hers.WaitForStateChange(ctx, connectivity.Ready) {
				t.Error("the connection stands")
			}
			if s := his.GetState(); s != connectivity.Ready {
				t.Errorf("another's connection is %s", s)
			}
			if _, err := c.renew(alice); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "person alice") && !strings.Contains(err.Error(), "no person alice") {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// TestPersonIsNoNode shows certificates where they do not belong.
func TestPersonIsNoNode(t *testing.T) {
	c, other := newCluster(t), newCluster(t)
	alice := c.person("alice")
	w := c.NewNode(t, worker)
	c.update(func(tx *raftstore.Tx) error { return store.Nodes.Put(tx, w.Record) })
	for _, alpn := range []string{pki.ALPNGRPC, pki.ALPNRaft, pki.ALPNLeader, pki.ALPNLocal, pki.ALPNLock, pki.ALPNWitness} {
		cfg := c.first.ClientConfig(alpn, "")
		cfg.GetClientCertificate = alice.ClientConfig().GetClientCertificate
		if conn, err := pki.DialTLS(t.Context(), c.addr, cfg); err == nil {
			// TLS 1.3: the refusal comes with the first read.
			conn.SetReadDeadline(time.Now().Add(30 * time.Second))
			if n, err := conn.Read(make([]byte, 1)); err == nil || n > 0 {
				t.Errorf("%s speaks to a person", alpn)
			} else if strings.Contains(err.Error(), "timeout") {
				t.Errorf("%s keeps a person's connection", alpn)
			}
			conn.Close()
		}
	}
	for name, creds := range map[string]*pki.Credentials{"a worker": w.Credentials, "a manager": c.first.Credentials, "a boot leaf": c.first.Boot, "a foreign manager": other.first.Credentials} {
		cfg := alice.ClientConfig()
		cfg.GetClientCertificate = creds.GetClientCertificate
		conn, err := pki.DialTLS(t.Context(), c.addr, cfg)
		if err != nil {
			continue
		}
		cc, err := pki.GRPCOver(conn)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := alice.Renew(t.Context(), cc); status.Code(err) != codes.Unavailable {
			t.Errorf("%s on people's protocol: %v", name, err)
		}
		cc.Close()
	}
	// TLS itself refuses them, before anybody looks at a record.
	trust := c.Trust()
	certs, _, err := profile.ParsePersonChain(alice.Chain)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.Verify(certs, pki.ExpectClient(pki.ALPNGRPC)); !errors.Is(err, pki.ErrIsPerson) {
		t.Errorf("a person where nodes are: %v", err)
	}
	node, err := profile.ParseChain(c.first.Chain())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.Verify(node, pki.ExpectClient(pki.ALPNPerson)); !errors.Is(err, pki.ErrNotPerson) {
		t.Errorf("a node where people are: %v", err)
	}
}

// TestPersonOfBeforeARotation: a certificate of a former issuing CA is good as long as it
// lives, where the record names it, and for nobody else.
func TestPersonOfBeforeARotation(t *testing.T) {
	c := newCluster(t)
	alice := c.person("alice")
	forger := *c.CA // what somebody keeps who knew the former key
	former := c.Issuer
	c.NextIssuer(t)
	rotate := func(cl *pkipb.Cluster) {
		cl.Issuers, cl.FormerIssuers, cl.KeysetEpoch = [][]byte{c.Issuer.Raw}, [][]byte{former.Raw}, 2
	}
	c.update(func(tx *raftstore.Tx) error {
		cl, err := store.GetCluster(tx)
		if err != nil {
			return err
		}
		cl = proto.CloneOf(cl)
		rotate(cl)
		return store.Cluster.Put(tx, cl)
	})
	trust, err := pki.TrustFromCluster(func() *pkipb.Cluster { cl := c.Cluster(); rotate(cl); return cl }())
	if err != nil {
		t.Fatal(err)
	}
	trust.Known = func(id profile.Identity) bool {
		return id.Person != "" && string(id.SPKI) == string(c.record(id.Person).GetLeafSpki())
	}
	certs, _, err := profile.ParsePersonChain(alice.Chain)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := trust.Verify(certs, pki.Expect{People: true}); err != nil || p.Person != "alice" {
		t.Errorf("%v, %v", p, err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	forged, err := forger.IssuePerson("alice", key.Public(), time.Now(), profile.PersonLife)
	if err != nil {
		t.Fatal(err)
	}
	if certs, _, err = profile.ParsePersonChain(forged); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.Verify(certs, pki.Expect{People: true}); !errors.Is(err, pki.ErrFormerIssuer) {
		t.Errorf("forged by a former issuing CA: %v", err)
	}
	unused := func() (unused bool) {
		if err := c.store.View(func(r *raftstore.ReadTx) error {
			cl, err := store.GetCluster(r)
			unused = pki.FormerUnused(r, cl, time.Now().Add(time.Hour))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return unused
	}
	// The manager's record has to be of the next issuer for the person's to be what holds it up.
	c.update(func(tx *raftstore.Tx) error {
		for n := range store.Nodes.All(tx) {
			if pki.NeedsReissue(must(store.GetCluster(tx)), n) {
				n = proto.CloneOf(n)
				n.LeafIssuer = pki.ActiveIssuer(must(store.GetCluster(tx)))
				n.BootIssuer = n.LeafIssuer
				return store.Nodes.Put(tx, n)
			}
		}
		return nil
	})
	if unused() {
		t.Error("the former issuing CA is forgotten while a person's certificate is of it")
	}
	c.update(func(tx *raftstore.Tx) error { return pki.RevokePerson(tx, "alice") })
	if !unused() {
		t.Error("the former issuing CA is kept for a person who was revoked")
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestNewPersonRefuses holds what a machine kept against what fits together.
func TestNewPersonRefuses(t *testing.T) {
	c, other := newCluster(t), newCluster(t)
	p, q := c.person("alice"), other.person("alice")
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	managers := []string{"192.0.2.1:2377"}
	if _, err := pki.NewPerson(p.Chain, key, p.Roots(), managers); err == nil {
		t.Error("another key is taken")
	}
	mixed := &profilepb.CertificateChain{Certificates: [][]byte{p.Chain.GetCertificates()[0], q.Chain.GetCertificates()[1], q.Chain.GetCertificates()[2]}}
	if _, err := pki.NewPerson(mixed, p.Key, nil, managers); err == nil {
		t.Error("a chain of another cluster is taken")
	}
	if _, err := pki.NewPerson(&profilepb.CertificateChain{Certificates: p.Chain.GetCertificates()[:2]}, p.Key, nil, managers); err == nil {
		t.Error("a chain without a root is taken")
	}
	if _, err := pki.NewPerson(p.Chain, p.Key, p.Roots(), nil); err == nil {
		t.Error("no managers are taken")
	}
	if _, err := pki.NewPerson(c.first.Chain(), c.first.Key, nil, managers); err == nil {
		t.Error("a manager's certificate is taken for a person's")
	}
}
