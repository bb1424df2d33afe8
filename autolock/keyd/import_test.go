package keyd

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile"
)

// second joins an empty keyd to c's cluster up to the point where it holds an
// honest import request.
func (c *cluster) second(t *testing.T) (*instance, *keydpb.ImportKeysetRequest) {
	t.Helper()
	k := start(t, t.TempDir())
	keydKey, err := k.PrepareJoin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	join := c.mint(t, manager, nil).join(t, newCSR(t, newKey(t), keydKey), newCSR(t, newKey(t), nil))
	signed, err := c.SignJoin(t.Context(), join)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := c.SealKeyset(t.Context(), &keydpb.SealKeysetRequest{Manager: signed.Leaf})
	if err != nil {
		t.Fatal(err)
	}
	return k, &keydpb.ImportKeysetRequest{
		NodeId: join.NodeId, ClusterId: c.init.ClusterId, SealedKeyset: sealed.SealedKeyset,
		Slots: c.init.Slots, RootPin: profile.SPKIHash(c.server.secrets.keyset.root),
	}
}

func TestSecondManager(t *testing.T) {
	c := newCluster(t)
	k, req := c.second(t)
	if _, err := k.ImportKeyset(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	_, err := k.ImportKeyset(t.Context(), req)
	wantCode(t, err, keydpb.Code_CODE_ALREADY)

	// It signs for the same cluster, from tokens that the first one minted.
	resp, err := k.SignJoin(t.Context(), c.mint(t, worker, nil).join(t, newCSR(t, newKey(t), nil), nil))
	if err != nil {
		t.Fatal(err)
	}
	leafOf(t, resp.Leaf, c.rootDER())

	// Its data key is its own; the operator key is the cluster's.
	first, err := c.OpenStore(t.Context(), &keydpb.OpenStoreRequest{})
	if err != nil {
		t.Fatal(err)
	}
	mine, err := k.OpenStore(t.Context(), &keydpb.OpenStoreRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(first.Dek, mine.Dek) {
		t.Error("two managers share a data key")
	}
	k = k.restart(t)
	if _, err := k.root.Unlock(t.Context(), c.key.Seed()); err != nil {
		t.Fatal(err)
	}
	again, err := k.OpenStore(t.Context(), &keydpb.OpenStoreRequest{})
	if err != nil || !bytes.Equal(again.Dek, mine.Dek) {
		t.Errorf("the data key changed: %v", err)
	}
}

func TestImportRefusesLies(t *testing.T) {
	c, foreign := newCluster(t), newCluster(t)
	k, honest := c.second(t)
	other, foreignReq := foreign.second(t)
	other.stop()
	for name, tc := range map[string]struct {
		lie  func(*keydpb.ImportKeysetRequest)
		want keydpb.Code
	}{
		"keyset of a foreign cluster":     {func(r *keydpb.ImportKeysetRequest) { r.SealedKeyset = foreignReq.SealedKeyset }, keydpb.Code_CODE_DENIED},
		"another cluster id":              {func(r *keydpb.ImportKeysetRequest) { r.ClusterId = foreign.init.ClusterId }, keydpb.Code_CODE_DENIED},
		"another node's keyset":           {func(r *keydpb.ImportKeysetRequest) { r.NodeId = ident.New() }, keydpb.Code_CODE_DENIED},
		"root that the token did not pin": {func(r *keydpb.ImportKeysetRequest) { r.RootPin = foreignReq.RootPin }, keydpb.Code_CODE_DENIED},
		"no pin":                          {func(r *keydpb.ImportKeysetRequest) { r.RootPin = nil }, keydpb.Code_CODE_DENIED},
		"damaged keyset":                  {func(r *keydpb.ImportKeysetRequest) { r.SealedKeyset[len(r.SealedKeyset)/2] ^= 1 }, keydpb.Code_CODE_DENIED},
		"no keyset":                       {func(r *keydpb.ImportKeysetRequest) { r.SealedKeyset = nil }, keydpb.Code_CODE_DENIED},
		"huge keyset":                     {func(r *keydpb.ImportKeysetRequest) { r.SealedKeyset = make([]byte, maxSealedKeyset+1) }, keydpb.Code_CODE_INVALID},
		"no slots":                        {func(r *keydpb.ImportKeysetRequest) { r.Slots = nil }, keydpb.Code_CODE_INVALID},
		"slot to nobody":                  {func(r *keydpb.ImportKeysetRequest) { r.Slots.Slots[0].Recipient = []byte("x") }, keydpb.Code_CODE_INVALID},
		"node id that is a path":          {func(r *keydpb.ImportKeysetRequest) { r.NodeId = "../x" }, keydpb.Code_CODE_INVALID},
	} {
		req := proto.CloneOf(honest)
		tc.lie(req)
		_, err := k.ImportKeyset(t.Context(), req)
		if codeName(err) != tc.want {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
		if st, err := k.Status(t.Context()); err != nil || st.State != keydpb.LockState_LOCK_STATE_EMPTY {
			t.Fatalf("%s: the keyd is %v afterwards, %v", name, st.GetState(), err)
		}
	}
	if _, err := k.ImportKeyset(t.Context(), honest); err != nil {
		t.Errorf("the honest import after all those: %v", err)
	}
	late := start(t, t.TempDir())
	_, err := late.ImportKeyset(t.Context(), honest) // a keyd that was restarted meanwhile
	wantCode(t, err, keydpb.Code_CODE_INVALID)
}

func TestInitRefusesWhatIsNotWhole(t *testing.T) {
	k := start(t, t.TempDir())
	key := autolock.NewOperatorKey()
	good := func() *keydpb.InitRequest {
		return &keydpb.InitRequest{NodeId: ident.New(), ManagerCsr: nil, BootCsr: newCSR(t, newKey(t), nil), Slots: []*keydpb.Slot{key.Slot()}}
	}
	other, err := newPrepared()
	if err != nil {
		t.Fatal(err)
	}
	defer other.destroy()
	req := good()
	req.ManagerCsr = newCSR(t, newKey(t), other.public)
	_, err = k.Init(t.Context(), req)
	wantCode(t, err, keydpb.Code_CODE_DENIED)
	keydKey, err := k.PrepareJoin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, lie := range map[string]func(*keydpb.InitRequest){
		"no boot leaf":       func(r *keydpb.InitRequest) { r.BootCsr = nil },
		"no slot":            func(r *keydpb.InitRequest) { r.Slots = nil },
		"two slots":          func(r *keydpb.InitRequest) { r.Slots = append(r.Slots, key.Slot()) },
		"slot of a new kind": func(r *keydpb.InitRequest) { r.Slots[0].Kind = 7 },
		"no node id":         func(r *keydpb.InitRequest) { r.NodeId = "" },
	} {
		req := good()
		req.ManagerCsr = newCSR(t, newKey(t), keydKey)
		lie(req)
		if _, err := k.Init(t.Context(), req); codeName(err) != keydpb.Code_CODE_INVALID {
			t.Errorf("%s: %v", name, err)
		}
	}
	if st, err := k.Status(t.Context()); err != nil || st.State != keydpb.LockState_LOCK_STATE_EMPTY {
		t.Error(st, err)
	}
	req = good() // without PrepareJoin's key keyd certifies its own
	req.ManagerCsr = newCSR(t, newKey(t), nil)
	resp, err := k.Init(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	id, err := profile.NodeFromCert(leafOf(t, resp.Manager, resp.Manager.Certificates[2]))
	if err != nil || !bytes.Equal(id.KeydKey, keydKey) {
		t.Errorf("the first manager's leaf certifies another keyd key: %v", err)
	}
}
