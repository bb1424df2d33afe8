package keydclient

import (
	"context"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
)

// Status returns the lock state, the slots and the protections in force.
func (c *Client) Status(ctx context.Context) (*keydpb.StatusResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_Status{Status: &keydpb.StatusRequest{}}}, (*keydpb.Response).GetStatus)
}

// Init makes a new cluster on an empty keyd.
func (c *Client) Init(ctx context.Context, req *keydpb.InitRequest) (*keydpb.InitResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_Init{Init: req}}, (*keydpb.Response).GetInit)
}

// OpenStore lends the data key and opens the manager leaf. Open a Watch first.
func (c *Client) OpenStore(ctx context.Context, req *keydpb.OpenStoreRequest) (*keydpb.OpenStoreResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_OpenStore{OpenStore: req}}, (*keydpb.Response).GetOpenStore)
}

// SealLeaf seals the manager leaf's key, for OpenStore to open.
func (c *Client) SealLeaf(ctx context.Context, req *keydpb.SealLeafRequest) (*keydpb.SealLeafResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_SealLeaf{SealLeaf: req}}, (*keydpb.Response).GetSealLeaf)
}

// MintToken signs a join token's record.
func (c *Client) MintToken(ctx context.Context, req *keydpb.MintTokenRequest) (*keydpb.MintTokenResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_MintToken{MintToken: req}}, (*keydpb.Response).GetMintToken)
}

// SignJoin issues a joiner's certificates.
func (c *Client) SignJoin(ctx context.Context, req *keydpb.SignJoinRequest) (*keydpb.SignJoinResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_SignJoin{SignJoin: req}}, (*keydpb.Response).GetSignJoin)
}

// SignRenew issues a renewed leaf.
func (c *Client) SignRenew(ctx context.Context, req *keydpb.SignRenewRequest) (*keydpb.SignRenewResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_SignRenew{SignRenew: req}}, (*keydpb.Response).GetSignRenew)
}

// TakeExternal has keyd judge what an external CA answered to an order.
func (c *Client) TakeExternal(ctx context.Context, req *keydpb.TakeExternalRequest) (*keydpb.TakeExternalResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_TakeExternal{TakeExternal: req}}, (*keydpb.Response).GetTakeExternal)
}

// SignOwn re-issues this manager's own leaf.
func (c *Client) SignOwn(ctx context.Context, req *keydpb.SignOwnRequest) (*keydpb.SignOwnResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_SignOwn{SignOwn: req}}, (*keydpb.Response).GetSignOwn)
}

// SealKeyset seals the cluster keyset to a manager that joins.
func (c *Client) SealKeyset(ctx context.Context, req *keydpb.SealKeysetRequest) (*keydpb.SealKeysetResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_SealKeyset{SealKeyset: req}}, (*keydpb.Response).GetSealKeyset)
}

// ImportKeyset makes an empty keyd a manager's.
func (c *Client) ImportKeyset(ctx context.Context, req *keydpb.ImportKeysetRequest) (*keydpb.ImportKeysetResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_ImportKeyset{ImportKeyset: req}}, (*keydpb.Response).GetImportKeyset)
}

// Reseal seals the KEK to a new slot set.
func (c *Client) Reseal(ctx context.Context, req *keydpb.ResealRequest) (*keydpb.ResealResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_Reseal{Reseal: req}}, (*keydpb.Response).GetReseal)
}

// RotateKeyset makes the next keyset for the managers that stay.
func (c *Client) RotateKeyset(ctx context.Context, req *keydpb.RotateKeysetRequest) (*keydpb.RotateKeysetResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_RotateKeyset{RotateKeyset: req}}, (*keydpb.Response).GetRotateKeyset)
}

// AdoptKeyset takes a rotated keyset into use.
func (c *Client) AdoptKeyset(ctx context.Context, req *keydpb.AdoptKeysetRequest) (*keydpb.AdoptKeysetResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_AdoptKeyset{AdoptKeyset: req}}, (*keydpb.Response).GetAdoptKeyset)
}

// SignPromotion issues a manager's certificates to a worker.
func (c *Client) SignPromotion(ctx context.Context, req *keydpb.SignPromotionRequest) (*keydpb.SignPromotionResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_SignPromotion{SignPromotion: req}}, (*keydpb.Response).GetSignPromotion)
}

// SignWorkloads issues what a node asked for its tasks, and tells the bundle.
func (c *Client) SignWorkloads(ctx context.Context, req *keydpb.SignWorkloadsRequest) (*keydpb.SignWorkloadsResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_SignWorkloads{SignWorkloads: req}}, (*keydpb.Response).GetSignWorkloads)
}

// PrepareJoin returns this keyd's public key, which a manager's certificate
// request carries. On an empty keyd it makes the key.
func (c *Client) PrepareJoin(ctx context.Context) ([]byte, error) {
	resp, err := do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_PrepareJoin{PrepareJoin: &keydpb.PrepareJoinRequest{}}}, (*keydpb.Response).GetPrepareJoin)
	return resp.GetKeydKey(), err
}

// Forget wipes everything keyd holds.
func (c *Client) Forget(ctx context.Context) error {
	_, err := do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_Forget{Forget: &keydpb.ForgetRequest{}}}, (*keydpb.Response).GetForget)
	return err
}

// SealBackup makes the head of a backup and the key that seals its state.
func (c *Client) SealBackup(ctx context.Context, req *keydpb.SealBackupRequest) (*keydpb.SealBackupResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_SealBackup{SealBackup: req}}, (*keydpb.Response).GetSealBackup)
}

// FinishRestore makes an empty keyd a manager's from the backup that OpenBackup
// opened.
func (c *Client) FinishRestore(ctx context.Context, req *keydpb.FinishRestoreRequest) (*keydpb.FinishRestoreResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_FinishRestore{FinishRestore: req}}, (*keydpb.Response).GetFinishRestore)
}

// RaiseIncarnation begins the cluster's next incarnation, which AuthorizeRecovery
// must have allowed.
func (c *Client) RaiseIncarnation(ctx context.Context, to uint64) error {
	_, err := do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_RaiseIncarnation{RaiseIncarnation: &keydpb.RaiseIncarnationRequest{Incarnation: to}}}, (*keydpb.Response).GetRaiseIncarnation)
	return err
}

// RotateDEK makes the DEK of that epoch, or gives it again, and keeps the one
// before. The caller wipes it.
func (c *Client) RotateDEK(ctx context.Context, epoch uint32) (*keydpb.RotateDEKResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_RotateDek{RotateDek: &keydpb.RotateDEKRequest{Epoch: epoch}}}, (*keydpb.Response).GetRotateDek)
}

// DropDEK forgets the former DEK, under which nothing is left.
func (c *Client) DropDEK(ctx context.Context, epoch uint32) (*keydpb.DropDEKResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_DropDek{DropDek: &keydpb.DropDEKRequest{Epoch: epoch}}}, (*keydpb.Response).GetDropDek)
}

// Unlock opens a locked keyd with a slot's seed and returns the slot's id. It
// works on unlock.sock only. The seed stays the caller's to wipe.
func (c *Client) Unlock(ctx context.Context, seed []byte) (slotID string, err error) {
	resp, err := do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_Unlock{Unlock: &keydpb.UnlockRequest{Seed: seed}}}, (*keydpb.Response).GetUnlock)
	return resp.GetSlotId(), err
}

// RotateCA makes the next keyset with one of the CAs changed.
func (c *Client) RotateCA(ctx context.Context, req *keydpb.RotateCARequest) (*keydpb.RotateCAResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_RotateCa{RotateCa: req}}, (*keydpb.Response).GetRotateCa)
}

// Journalled says which keys keyd's journal has a certificate for.
func (c *Client) Journalled(ctx context.Context, req *keydpb.JournalledRequest) (*keydpb.JournalledResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_Journalled{Journalled: req}}, (*keydpb.Response).GetJournalled)
}

// SignCRL signs the revocation list of one CA.
func (c *Client) SignCRL(ctx context.Context, req *keydpb.SignCRLRequest) (*keydpb.SignCRLResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_SignCrl{SignCrl: req}}, (*keydpb.Response).GetSignCrl)
}

// Release opens the ticket of another manager for its locked keyd.
func (c *Client) Release(ctx context.Context, req *keydpb.ReleaseRequest) (*keydpb.ReleaseResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_Release{Release: req}}, (*keydpb.Response).GetRelease)
}

// TakeRelease opens keyd with what another one released.
func (c *Client) TakeRelease(ctx context.Context, sealed []byte) error {
	_, err := do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_TakeRelease{TakeRelease: &keydpb.TakeReleaseRequest{Sealed: sealed}}}, (*keydpb.Response).GetTakeRelease)
	return err
}

// MintInvitation has an invitation's record signed.
func (c *Client) MintInvitation(ctx context.Context, req *keydpb.MintInvitationRequest) (*keydpb.MintInvitationResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_MintInvitation{MintInvitation: req}}, (*keydpb.Response).GetMintInvitation)
}

// SignPerson certifies a person's key.
func (c *Client) SignPerson(ctx context.Context, req *keydpb.SignPersonRequest) (*keydpb.SignPersonResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_SignPerson{SignPerson: req}}, (*keydpb.Response).GetSignPerson)
}

// SignCheckpoint signs the root of the audit log, for the cluster and as this manager.
func (c *Client) SignCheckpoint(ctx context.Context, req *keydpb.SignCheckpointRequest) (*keydpb.SignCheckpointResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_SignCheckpoint{SignCheckpoint: req}}, (*keydpb.Response).GetSignCheckpoint)
}

// SignReport signs the statement about a compliance report, for the cluster.
func (c *Client) SignReport(ctx context.Context, req *keydpb.SignReportRequest) (*keydpb.SignReportResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_SignReport{SignReport: req}}, (*keydpb.Response).GetSignReport)
}

// ReadJournal reads what keyd wrote down.
func (c *Client) ReadJournal(ctx context.Context, req *keydpb.ReadJournalRequest) (*keydpb.ReadJournalResponse, error) {
	return do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_ReadJournal{ReadJournal: req}}, (*keydpb.Response).GetReadJournal)
}

// NoteRefused has keyd write down calls that were refused.
func (c *Client) NoteRefused(ctx context.Context, calls []*keydpb.RefusedCall) error {
	_, err := do(ctx, c, &keydpb.Request{Verb: &keydpb.Request_NoteRefused{NoteRefused: &keydpb.NoteRefusedRequest{Calls: calls}}}, (*keydpb.Response).GetNoteRefused)
	return err
}
