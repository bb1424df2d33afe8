package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// world is a leader with one node that has one task of the service web.
type world struct {
	*Server
	t              *testing.T
	node, task, id string
	chain          [][]byte
	asked          []int // what keyd was asked for: items, without those refused
}

func inWorld(t *testing.T, body func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		s := raftstoretest.New(t, slices.Concat(store.Tables(), pkistore.Tables())...)
		cluster, service := ident.New(), ident.New()
		w := &world{t: t, node: ident.New(), task: ident.New(), id: profile.ServiceURI(cluster, "", "web").String()}
		w.Server = New(Config{Store: s, ClusterID: cluster, Sign: func(_ context.Context, req *schedulerpb.IssueRequest, refused []uint32) (*schedulerpb.IssueResponse, error) {
			resp := &schedulerpb.IssueResponse{}
			if len(req.GetBatch()) > 0 {
				batch, err := profile.ParseBatch(req.GetBatch())
				if err != nil {
					return nil, err
				}
				resp.Documents = make([]*profilepb.WorkloadDocument, len(batch.Items))
				for i := range resp.Documents {
					resp.Documents[i] = &profilepb.WorkloadDocument{Document: &profilepb.WorkloadDocument_Token{Token: "t"}}
				}
			}
			w.asked = append(w.asked, len(resp.Documents)-len(refused))
			return resp, nil
		}})
		w.chain = [][]byte{leafOf(t, cluster, w.node)}
		err := s.Update(t.Context(), func(tx *raftstore.Tx) error {
			return errors.Join(
				store.Services.Put(tx, &schedulerpb.Service{Id: service, Spec: &schedulerpb.ServiceSpec{Name: "web", Task: &taskpb.TaskSpec{}}}),
				store.Tasks.Put(tx, &schedulerpb.Task{Id: w.task, ServiceId: service, Slot: 1, Revision: 1, NodeId: w.node,
					Desired: store.Running, Status: &schedulerpb.TaskStatus{State: store.Assigned}}))
		})
		if err != nil {
			t.Fatal(err)
		}
		body(w)
	})
}

func leafOf(t *testing.T, cluster, node string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, SubjectKeyId: []byte("ca")}
	id := profile.Identity{ClusterID: cluster, NodeID: node, Role: profilepb.Role_ROLE_WORKER}
	leaf := profile.LeafTemplate(id, time.Now(), profile.LeafLife)
	leaf.SerialNumber = big.NewInt(2)
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// ask asks for a token for each task.
func (w *world) ask(tasks ...string) (*schedulerpb.IssueResponse, error) {
	w.t.Helper()
	b := &profilepb.WorkloadBatch{At: time.Now().Unix()}
	for _, task := range tasks {
		b.Items = append(b.Items, &profilepb.WorkloadItem{TaskId: task, Identity: w.id, Life: 60,
			Document: &profilepb.WorkloadItem_Audience{Audience: &profilepb.WorkloadAudience{Names: []string{"x"}}}})
	}
	raw, err := proto.Marshal(b)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.issue(&schedulerpb.IssueRequest{Batch: raw, Chain: w.chain, Proof: []byte("p")})
}

func (w *world) issue(req *schedulerpb.IssueRequest) (*schedulerpb.IssueResponse, error) {
	return w.Issue(authz.NewContext(w.t.Context(), authz.Identity{NodeID: w.node}), req)
}

// What is refused is told with its reason; keyd hears of a batch only where
// something is left of it.
func TestRefusedItems(t *testing.T) {
	inWorld(t, func(w *world) {
		got, err := w.ask(ident.New(), w.task)
		if err != nil || len(got.Documents) != 2 || got.Documents[0].GetError() != errNotAssigned.Error() || got.Documents[1].GetToken() != "t" || !slices.Equal(w.asked, []int{1}) {
			t.Fatalf("%v, %v; keyd was asked for %v", got, err, w.asked)
		}
		got, err = w.ask(ident.New(), ident.New())
		if err != nil || len(got.Documents) != 2 || got.Documents[0].GetError() == "" || got.Documents[1].GetError() == "" || len(w.asked) != 1 {
			t.Errorf("all refused: %v, %v; keyd was asked for %v", got, err, w.asked)
		}
		for _, bad := range []*schedulerpb.IssueRequest{{Chain: w.chain}, {Proof: []byte("p")}, {Batch: []byte("x"), Chain: w.chain}, {Batch: make([]byte, 1)}} {
			if _, err := w.issue(bad); status.Code(err) != codes.InvalidArgument || len(w.asked) != 1 {
				t.Errorf("%v: %v; keyd was asked for %v", bad, err, w.asked)
			}
		}
	})
}

// Whatever a node asks for, it may do it so often: for the bundle alone, for what is
// refused, and with what is malformed.
func TestCallsAreBounded(t *testing.T) {
	for name, call := range map[string]func(w *world) error{
		"bundle":    func(w *world) error { _, err := w.issue(&schedulerpb.IssueRequest{}); return err },
		"one":       func(w *world) error { _, err := w.ask(w.task); return err },
		"refused":   func(w *world) error { _, err := w.ask(ident.New()); return err },
		"malformed": func(w *world) error { _, err := w.issue(&schedulerpb.IssueRequest{Batch: []byte("x")}); return err },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				n := 0
				for status.Code(call(w)) != codes.ResourceExhausted {
					if n++; n > nodeBurst {
						break
					}
				}
				if n != nodeBurst/minItems {
					t.Errorf("%d calls at once, want %d", n, nodeBurst/minItems)
				}
				time.Sleep(minItems * nodeRefill) // of the bubble's clock
				if err := call(w); status.Code(err) == codes.ResourceExhausted {
					t.Errorf("after a while: %v", err)
				}
				if len(w.asked) > n+1 {
					t.Errorf("keyd was asked %d times", len(w.asked))
				}
			})
		})
	}
}
