package keyd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/awnumar/memguard"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// FuzzRequest throws requests at an unlocked, an empty and a locked keyd. No
// answer may be a certificate, a keyset, or an internal error.
func FuzzRequest(f *testing.F) {
	add := func(req *keydpb.Request) {
		b, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	add(&keydpb.Request{})
	add(&keydpb.Request{Verb: &keydpb.Request_Init{Init: &keydpb.InitRequest{Slots: []*keydpb.Slot{nil, {}}}}})
	add(&keydpb.Request{Verb: &keydpb.Request_SignJoin{SignJoin: &keydpb.SignJoinRequest{}}})
	add(&keydpb.Request{Verb: &keydpb.Request_SignRenew{SignRenew: &keydpb.SignRenewRequest{}}})
	add(&keydpb.Request{Verb: &keydpb.Request_SignOwn{SignOwn: &keydpb.SignOwnRequest{}}})
	add(&keydpb.Request{Verb: &keydpb.Request_SealKeyset{}})
	add(&keydpb.Request{Verb: &keydpb.Request_ImportKeyset{ImportKeyset: &keydpb.ImportKeysetRequest{SealedKeyset: []byte("x")}}})
	add(&keydpb.Request{Verb: &keydpb.Request_Reseal{Reseal: &keydpb.ResealRequest{}}})
	add(&keydpb.Request{Verb: &keydpb.Request_OpenStore{OpenStore: &keydpb.OpenStoreRequest{SealedLeaf: []byte("RDTS")}}})
	add(&keydpb.Request{Verb: &keydpb.Request_SealLeaf{SealLeaf: &keydpb.SealLeafRequest{LeafKey: []byte{0x30, 0}}}})
	add(&keydpb.Request{Verb: &keydpb.Request_MintToken{MintToken: &keydpb.MintTokenRequest{}}})
	chain := &profilepb.CertificateChain{Certificates: [][]byte{{0x30, 0}, {0x30, 0}}}
	add(&keydpb.Request{Verb: &keydpb.Request_RotateKeyset{RotateKeyset: &keydpb.RotateKeysetRequest{Managers: []*profilepb.CertificateChain{nil, chain}, Retired: [][]byte{nil, make([]byte, 1216)}}}})
	add(&keydpb.Request{Verb: &keydpb.Request_RotateKeyset{}})
	add(&keydpb.Request{Verb: &keydpb.Request_AdoptKeyset{AdoptKeyset: &keydpb.AdoptKeysetRequest{Epoch: 2, SealedKeyset: make([]byte, 1200)}}})
	add(&keydpb.Request{Verb: &keydpb.Request_SignPromotion{SignPromotion: &keydpb.SignPromotionRequest{Old: chain, Csr: []byte{0x30, 0}, BootCsr: []byte{0x30, 0}, Proof: []byte{0x30, 0}}}})
	add(&keydpb.Request{Verb: &keydpb.Request_SignRenew{SignRenew: &keydpb.SignRenewRequest{Old: chain, Demote: true}}})
	add(&keydpb.Request{Verb: &keydpb.Request_SealBackup{SealBackup: &keydpb.SealBackupRequest{}}})
	add(&keydpb.Request{Verb: &keydpb.Request_FinishRestore{FinishRestore: &keydpb.FinishRestoreRequest{}}})
	add(&keydpb.Request{Verb: &keydpb.Request_RaiseIncarnation{RaiseIncarnation: &keydpb.RaiseIncarnationRequest{}}})
	add(&keydpb.Request{Verb: &keydpb.Request_OpenBackup{OpenBackup: &keydpb.OpenBackupRequest{Seed: make([]byte, 32)}}})
	add(&keydpb.Request{Verb: &keydpb.Request_AuthorizeRecovery{AuthorizeRecovery: &keydpb.AuthorizeRecoveryRequest{Seed: make([]byte, 32)}}})
	add(&keydpb.Request{Verb: &keydpb.Request_Unlock{Unlock: &keydpb.UnlockRequest{Seed: make([]byte, 32)}}})
	key := &keydpb.SecretKey{Kind: "file", Epoch: 1, Sealed: make([]byte, 1168)}
	add(&keydpb.Request{Verb: &keydpb.Request_OpenAndSeal{OpenAndSeal: &keydpb.OpenAndSealRequest{Node: chain, Statement: []byte("RDTN\x01"), Items: []*keydpb.SealItem{nil, {Key: key}}}}})
	add(&keydpb.Request{Verb: &keydpb.Request_RewrapSecrets{RewrapSecrets: &keydpb.RewrapSecretsRequest{Keys: []*keydpb.SecretKey{nil, key}}}})
	add(&keydpb.Request{Verb: &keydpb.Request_DropMasters{DropMasters: &keydpb.DropMastersRequest{Epoch: 1}}})

	now := time.Now()
	keys, err := newKeyset(now)
	if err != nil {
		f.Fatal(err)
	}
	p, err := newPrepared()
	if err != nil {
		f.Fatal(err)
	}
	own, err := newLocal(p, 1)
	if err != nil {
		f.Fatal(err)
	}
	opened := &secrets{keys, own, 1}
	f.Cleanup(func() { opened.destroy(); p.destroy() })
	server := func(t *testing.T, file *stateFile, s *secrets) *Server {
		k, err := New(Config{Dir: t.TempDir(), Section: DefaultSection()})
		if err != nil {
			t.Fatal(err)
		}
		k.file, k.secrets = file, s
		t.Cleanup(func() { k.prepared.destroy(); k.journal.close() })
		return k
	}
	set := &keydpb.SlotSet{Epoch: 1, Slots: []*keydpb.Slot{newSlot()}}
	_, raw, err := opened.sealState(newID(), set, nil)
	if err != nil {
		f.Fatal(err)
	}
	file, err := decodeState(raw)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		req := new(keydpb.Request)
		framed := append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
		if wire.Read(bytes.NewReader(framed), req) != nil || req.GetForget() != nil {
			return
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // so that nothing waits
		for _, k := range []*Server{server(t, nil, nil), server(t, file, nil), server(t, file, opened)} {
			for _, verb := range []func(context.Context, *keydpb.Request) (*keydpb.Response, error){k.controlVerb, k.unlockVerb} {
				resp, err := verb(ctx, req)
				if err == nil && (resp.GetSignJoin() != nil || resp.GetSignRenew() != nil || resp.GetSealKeyset() != nil ||
					resp.GetInit() != nil || resp.GetImportKeyset() != nil || resp.GetUnlock() != nil || resp.GetRotateKeyset() != nil ||
					resp.GetSignPromotion() != nil || resp.GetRaiseIncarnation() != nil || resp.GetFinishRestore() != nil ||
					resp.GetOpenBackup() != nil || resp.GetAuthorizeRecovery() != nil || resp.GetAdoptKeyset() != nil && req.GetAdoptKeyset().GetEpoch() != 1) {
					t.Fatalf("%v was granted", req)
				}
				if err != nil && codeOf(err) == keydpb.Code_CODE_INTERNAL && !errors.Is(err, context.Canceled) {
					t.Fatalf("%v: %v", req, err)
				}
			}
		}
	})
}

// FuzzKeyset reads keysets as another manager may send them.
func FuzzKeyset(f *testing.F) {
	k, err := newKeyset(time.Now())
	if err != nil {
		f.Fatal(err)
	}
	honest := bytes.Clone(k.buf.Bytes())
	k.destroy()
	f.Add(honest)
	f.Add(honest[:len(honest)-1])
	f.Add(append(bytes.Clone(honest), 0))
	f.Add([]byte(keysetMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		k, err := openKeyset(memguard.NewBufferFromBytes(bytes.Clone(b)))
		if err != nil {
			return
		}
		defer k.destroy()
		if err := k.issuing.CheckSignatureFrom(k.root); err != nil {
			t.Fatal("a keyset whose certificates do not belong together was accepted")
		}
	})
}

// FuzzState looks for panics and for states that are read as something that was
// not written.
func FuzzState(f *testing.F) {
	f.Add([]byte(stateMagic))
	f.Add(append([]byte(stateMagic), make([]byte, 80)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if file, err := decodeState(b); err == nil && (file.state == nil || len(file.state.GetSlots().GetSlots()) == 0) {
			t.Fatal("a state without slots was accepted")
		}
		if sum := sha(b); len(b) > len(stateMagic) { // past the digest, into the parser
			decodeState(append(bytes.Clone(b), sum[:]...))
		}
		new(journal).read(b, nil)
	})
}

// A ticket that is read is written again as the same fields, and is never large.
func FuzzTicket(f *testing.F) {
	good, err := proto.Marshal(&keydpb.Ticket{SlotId: newID(), Generation: 7, Sealed: make([]byte, autolock.KeyLen+autolock.Overhead)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(append(bytes.Clone(good), 0x78, 1))
	f.Fuzz(func(t *testing.T, raw []byte) {
		k, err := readTicket(raw)
		if err != nil {
			return
		}
		again, err := proto.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := readTicket(again); err != nil || !proto.Equal(k, b) {
			t.Errorf("%v is read again as %v: %v", k, b, err)
		}
	})
}
