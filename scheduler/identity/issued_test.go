package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"math/big"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// certifies has keyd issue certificates with serial numbers from 1 on, and do
// something before it answers.
func (w *world) certifies(life time.Duration, meanwhile func()) {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	serial := int64(0)
	w.Server.c.Sign = func(_ context.Context, req *schedulerpb.IssueRequest, _ []uint32) (*schedulerpb.IssueResponse, error) {
		serial++
		now := time.Now()
		leaf := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: now, NotAfter: now.Add(life)}
		der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, &key.PublicKey, key)
		if meanwhile != nil {
			meanwhile()
		}
		return &schedulerpb.IssueResponse{Issuer: &profilepb.CertificateChain{Certificates: [][]byte{[]byte("workload CA")}},
			Documents: []*profilepb.WorkloadDocument{{Document: &profilepb.WorkloadDocument_Certificate{Certificate: der}}}}, err
	}
}

// certificate asks for one, for the world's task.
func (w *world) certificate() (*schedulerpb.IssueResponse, error) {
	w.t.Helper()
	raw, err := proto.Marshal(&profilepb.WorkloadBatch{At: time.Now().Unix(), Items: []*profilepb.WorkloadItem{
		{TaskId: w.task, Identity: w.id, Life: 60, Document: &profilepb.WorkloadItem_Csr{Csr: []byte("csr")}}}})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.issue(&schedulerpb.IssueRequest{Batch: raw, Chain: w.chain, Proof: []byte("p")})
}

func (w *world) update(f func(tx *raftstore.Tx) error) {
	w.t.Helper()
	if err := w.Server.c.Store.Update(w.t.Context(), f); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) report(node string, held ...*schedulerpb.HeldIdentity) error {
	_, err := w.Report(authz.NewContext(w.t.Context(), authz.Identity{NodeID: node}), &schedulerpb.IdentityReport{Held: held})
	return err
}

// serials are the last bytes of the serial numbers known of the identity, and of the node.
func (w *world) serials() (identity, node []byte) {
	w.t.Helper()
	a, err1 := w.IssuedFor(w.id)
	b, err2 := w.IssuedTo(w.node)
	if err1 != nil || err2 != nil {
		w.t.Fatal(err1, err2)
	}
	of := func(certs []*pkipb.IssuedCertificate) (out []byte) {
		for _, c := range certs {
			out = append(out, c.GetSerial()[len(c.GetSerial())-1])
		}
		slices.Sort(out)
		return out
	}
	return of(a), of(b)
}

func held(w *world, task string, serials ...byte) *schedulerpb.HeldIdentity {
	h := &schedulerpb.HeldIdentity{TaskId: task, Identity: w.id}
	issuer := sha256.Sum256([]byte("workload CA"))
	for _, s := range serials {
		h.Certificates = append(h.Certificates, &schedulerpb.HeldCertificate{Serial: []byte{s}, Issuer: issuer[:], ExpiresAt: time.Now().Add(time.Hour).Unix()})
	}
	return h
}

// What was signed is known until it ends, by identity and by node.
func TestIssued(t *testing.T) {
	inWorld(t, func(w *world) {
		w.certifies(time.Hour, nil)
		for range 2 {
			if got, err := w.certificate(); err != nil || got.Documents[0].GetCertificate() == nil {
				t.Fatal(got, err)
			}
		}
		if a, b := w.serials(); !slices.Equal(a, []byte{1, 2}) || !slices.Equal(b, a) {
			t.Errorf("known are %v of the identity, %v of the node", a, b)
		}
		if other, err := w.IssuedTo(ident.New()); err != nil || len(other) > 0 {
			t.Errorf("of another node: %v, %v", other, err)
		}
		certs, _ := w.IssuedFor(w.id)
		if issuer := sha256.Sum256([]byte("workload CA")); !slices.Equal(certs[0].GetIssuer(), issuer[:]) {
			t.Errorf("issued by %x", certs[0].GetIssuer())
		}
		time.Sleep(2 * time.Hour) // of the bubble's clock
		if a, _ := w.serials(); len(a) > 0 {
			t.Errorf("%v have ended", a)
		}
		for range 200 {
			time.Sleep(time.Minute)
			if _, err := w.certificate(); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(w.nodes[w.node].issued); n > 130 {
			t.Errorf("%d are remembered, of which 60 are good", n)
		}
	})
}

// What keyd signed while the identity, or the node, was being denied is known to who
// denied it, or is not handed out.
func TestIssuedWhileDenied(t *testing.T) {
	for name, deny := range map[string]func(w *world, tx *raftstore.Tx) error{
		"identity": func(w *world, tx *raftstore.Tx) error { _, _, err := pki.DenyIdentity(tx, w.id); return err },
		"node": func(w *world, tx *raftstore.Tx) error {
			return pkistore.Nodes.Put(tx, &pkipb.Node{Id: w.node, Role: profilepb.Role_ROLE_WORKER, Denied: true, DeniedAt: 1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.certifies(time.Hour, func() { w.update(func(tx *raftstore.Tx) error { return deny(w, tx) }) })
				got, err := w.certificate()
				if err != nil || got.Documents[0].GetCertificate() != nil || got.Documents[0].GetError() == "" {
					t.Errorf("what was denied meanwhile is handed out: %v, %v", got, err)
				}
			})
		})
	}
}

// A leader that comes anew takes a node's word of its own tasks, and of nothing else.
func TestReportedCertificates(t *testing.T) {
	inWorld(t, func(w *world) {
		if err := w.report(w.node, held(w, w.task, 7, 8)); err != nil {
			t.Fatal(err)
		}
		if a, b := w.serials(); !slices.Equal(a, []byte{7, 8}) || !slices.Equal(b, a) {
			t.Errorf("known are %v and %v", a, b)
		}
		thief := ident.New()
		if err := w.report(thief, held(w, w.task, 9), held(w, ident.New(), 10)); err != nil {
			t.Fatal(err)
		}
		if a, _ := w.serials(); !slices.Equal(a, []byte{7, 8}) {
			t.Errorf("a node is believed of others' tasks: %v", a)
		}
		time.Sleep(time.Minute) // of the bubble's clock
		if err := w.report(w.node, held(w, w.task, 7), held(w, w.task, 8)); status.Code(err) != codes.InvalidArgument {
			t.Errorf("a task twice: %v", err)
		}
		// Of what this leader had signed, the node's word counts for nothing.
		w.certifies(time.Hour, nil)
		if _, err := w.certificate(); err != nil {
			t.Fatal(err)
		}
		if err := w.report(w.node, held(w, w.task, 1, 7)); err != nil {
			t.Fatal(err)
		}
		if a, _ := w.serials(); !slices.Equal(a, []byte{1, 7}) {
			t.Errorf("known are %v", a)
		}
		// What this leader had signed comes first, however long a node says that others live.
		// A serial number of a CA that was made up keeps nobody else's off.
		long := held(w, w.task, 5, 6, 6)
		long.Certificates[0].ExpiresAt = time.Now().Add(pki.LongestSVID).Unix()
		long.Certificates[1].Issuer = make([]byte, sha256.Size)
		if err := w.report(w.node, long); err != nil {
			t.Fatal(err)
		}
		var order []byte
		certs, err := w.IssuedTo(w.node)
		for _, c := range certs {
			order = append(order, c.GetSerial()...)
		}
		if err != nil || !slices.Equal(order, []byte{1, 5, 6, 6}) {
			t.Errorf("known are %v, %v", order, err)
		}
		// A list that named these could not be signed.
		for name, bad := range map[string]func(*schedulerpb.HeldCertificate){
			"no serial":       func(c *schedulerpb.HeldCertificate) { c.Serial = nil },
			"a zero in front": func(c *schedulerpb.HeldCertificate) { c.Serial = []byte{0, 1} },
			"a long serial":   func(c *schedulerpb.HeldCertificate) { c.Serial = make([]byte, 21); c.Serial[0] = 1 },
			"no issuer":       func(c *schedulerpb.HeldCertificate) { c.Issuer = nil },
			"too long a life": func(c *schedulerpb.HeldCertificate) { c.ExpiresAt = time.Now().Add(48 * time.Hour).Unix() },
		} {
			h := held(w, w.task, 3)
			bad(h.Certificates[0])
			time.Sleep(reportRefill) // of the bubble's clock
			if err := w.report(w.node, h); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := w.report(w.node, held(w, w.task, 1, 2, 3, 4, 5, 6, 7, 8, 9)); status.Code(err) != codes.InvalidArgument {
			t.Errorf("nine of one task: %v", err)
		}
	})
}

// Of a node that is gone nothing is left once all that it had has ended, and of one
// that is not what has not.
func TestGoneNodesAreForgotten(t *testing.T) {
	inWorld(t, func(w *world) {
		w.certifies(time.Hour, nil)
		if _, err := w.certificate(); err != nil {
			t.Fatal(err)
		}
		other := ident.New()
		put := func(id string, denied bool) {
			w.update(func(tx *raftstore.Tx) error {
				return pkistore.Nodes.Put(tx, &pkipb.Node{Id: id, Role: profilepb.Role_ROLE_WORKER, Denied: denied})
			})
		}
		put(w.node, true)
		put(other, false)
		for _, node := range []string{w.node, other, ident.New()} { // the last has no record any more
			if err := w.report(node, held(w, w.task, 9)); err != nil {
				t.Fatal(err)
			}
		}
		// Who removes a node asks once it is denied, and once more where the list failed.
		for range 2 {
			if _, b := w.serials(); !slices.Equal(b, []byte{1, 9}) || len(w.nodes) != 3 {
				t.Errorf("known are %v, of %d nodes", b, len(w.nodes))
			}
		}
		time.Sleep(2 * time.Hour) // of the bubble's clock
		if _, b := w.serials(); len(b) > 0 || len(w.nodes) != 1 || len(w.nodes[other].held) != 1 {
			t.Errorf("known are %v, of %v", b, w.nodes)
		}
	})
}

// A node that claims much keeps no other's off a list, and ends no other's sooner.
func TestClaimsTakeTurns(t *testing.T) {
	inWorld(t, func(w *world) {
		thief, own := ident.New(), make([]string, 3)
		for thief > w.node { // it is asked before the other
			thief = ident.New()
		}
		w.update(func(tx *raftstore.Tx) error {
			task, _ := store.Tasks.Get(tx, w.task)
			for i := range own {
				own[i] = ident.New()
				if err := store.Tasks.Put(tx, &schedulerpb.Task{Id: own[i], ServiceId: task.GetServiceId(), Slot: uint32(i) + 2, Revision: 1, NodeId: thief, Desired: store.Running}); err != nil {
					return err
				}
			}
			return nil
		})
		much := make([]*schedulerpb.HeldIdentity, len(own))
		for i := range own {
			much[i] = held(w, own[i], byte(10*i+10), byte(10*i+11))
			for _, c := range much[i].Certificates {
				c.ExpiresAt = time.Now().Add(pki.LongestSVID).Unix()
			}
		}
		early := held(w, own[0], 1, 2) // the other's, which so come last in its own turns
		for _, c := range early.Certificates {
			c.ExpiresAt = time.Now().Add(time.Second).Unix()
		}
		much[0].Certificates = append(much[0].Certificates, early.Certificates...)
		if err := errors.Join(w.report(thief, much...), w.report(w.node, held(w, w.task, 1, 2))); err != nil {
			t.Fatal(err)
		}
		certs, err := w.IssuedFor(w.id)
		if err != nil || len(certs) != 8 {
			t.Fatalf("%v, %v", certs, err)
		}
		places := map[byte]int{}
		for i, c := range certs {
			if !c.GetClaimed() {
				t.Errorf("%v is taken for issued", c)
			}
			places[c.GetSerial()[0]] = i
		}
		if places[2] > 3 {
			t.Errorf("a task's certificates stand behind what a node claims of its own: %v", places)
		}
		if c := certs[places[1]]; c.GetNotAfter() < time.Now().Add(time.Hour).Unix() {
			t.Error("a node has another's certificate leave the list before it ends")
		}
	})
}
