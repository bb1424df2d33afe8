package keyd

import (
	"context"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
)

// controlVerb answers redoubtd: every verb but unlock.
func (s *Server) controlVerb(ctx context.Context, req *keydpb.Request) (*keydpb.Response, error) {
	switch req.GetVerb().(type) {
	case *keydpb.Request_Status:
		st, err := s.status()
		return &keydpb.Response{Result: &keydpb.Response_Status{Status: st}}, err
	case *keydpb.Request_WaitUnlocked:
		if err := s.waitUnlocked(ctx); err != nil {
			return nil, err
		}
		return &keydpb.Response{Result: &keydpb.Response_WaitUnlocked{WaitUnlocked: &keydpb.WaitUnlockedResponse{}}}, nil
	// The TPM takes its time, and has a turn of its own.
	case *keydpb.Request_DescribeTpm, *keydpb.Request_Attest, *keydpb.Request_SealToTpm:
		return s.tpmVerb(ctx, req)
	case *keydpb.Request_Unlock, *keydpb.Request_OpenBackup, *keydpb.Request_AuthorizeRecovery,
		*keydpb.Request_GiveShare, *keydpb.Request_DropShares, *keydpb.Request_TestSlot:
		return nil, denied("what takes an operator key is for root alone: use unlock.sock")
	default:
		t := s.askTPM(ctx, req)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closed {
			return nil, errLocked
		}
		if s.broken != nil && req.GetForget() == nil {
			return nil, s.broken
		}
		name, resp, err := s.guarded(ctx, req, t)
		if err != nil {
			return nil, s.noteDenial(name, err)
		}
		return resp, nil
	}
}

// guarded runs the verbs that need mu, which the caller holds.
func (s *Server) guarded(ctx context.Context, req *keydpb.Request, t fromTPM) (name string, resp *keydpb.Response, err error) {
	resp = new(keydpb.Response)
	switch v := req.GetVerb().(type) {
	case *keydpb.Request_Init:
		name = "init"
		var r *keydpb.InitResponse
		r, err = s.init(ctx, v.Init)
		resp.Result = &keydpb.Response_Init{Init: r}
	case *keydpb.Request_OpenStore:
		name = "open-store"
		var r *keydpb.OpenStoreResponse
		r, err = s.openStore(v.OpenStore)
		resp.Result = &keydpb.Response_OpenStore{OpenStore: r}
	case *keydpb.Request_SealLeaf:
		name = "seal-leaf"
		var r *keydpb.SealLeafResponse
		r, err = s.sealLeaf(v.SealLeaf)
		resp.Result = &keydpb.Response_SealLeaf{SealLeaf: r}
	case *keydpb.Request_MintToken:
		name = "mint-token"
		var r *keydpb.MintTokenResponse
		r, err = s.mintToken(v.MintToken)
		resp.Result = &keydpb.Response_MintToken{MintToken: r}
	case *keydpb.Request_SignJoin:
		name = "sign-join"
		var r *keydpb.SignJoinResponse
		r, err = s.signJoin(ctx, v.SignJoin)
		resp.Result = &keydpb.Response_SignJoin{SignJoin: r}
	case *keydpb.Request_SignRenew:
		name = "sign-renew"
		var r *keydpb.SignRenewResponse
		r, err = s.signRenew(ctx, v.SignRenew)
		resp.Result = &keydpb.Response_SignRenew{SignRenew: r}
	case *keydpb.Request_SignOwn:
		name = "sign-own"
		var r *keydpb.SignOwnResponse
		r, err = s.signOwn(ctx, v.SignOwn, t)
		resp.Result = &keydpb.Response_SignOwn{SignOwn: r}
	case *keydpb.Request_SealKeyset:
		name = "seal-keyset"
		var r *keydpb.SealKeysetResponse
		r, err = s.sealKeyset(v.SealKeyset)
		resp.Result = &keydpb.Response_SealKeyset{SealKeyset: r}
	case *keydpb.Request_PrepareJoin:
		name = "prepare-join"
		var r *keydpb.PrepareJoinResponse
		r, err = s.prepareJoin()
		resp.Result = &keydpb.Response_PrepareJoin{PrepareJoin: r}
	case *keydpb.Request_ImportKeyset:
		name = "import-keyset"
		var r *keydpb.ImportKeysetResponse
		r, err = s.importKeyset(v.ImportKeyset, t.seeds)
		resp.Result = &keydpb.Response_ImportKeyset{ImportKeyset: r}
	case *keydpb.Request_Reseal:
		name = "reseal"
		var r *keydpb.ResealResponse
		r, err = s.reseal(v.Reseal, t.seeds)
		resp.Result = &keydpb.Response_Reseal{Reseal: r}
	case *keydpb.Request_RotateKeyset:
		name = "rotate-keyset"
		var r *keydpb.RotateKeysetResponse
		r, err = s.rotateKeyset(v.RotateKeyset)
		resp.Result = &keydpb.Response_RotateKeyset{RotateKeyset: r}
	case *keydpb.Request_AdoptKeyset:
		name = "adopt-keyset"
		var r *keydpb.AdoptKeysetResponse
		r, err = s.adoptKeyset(v.AdoptKeyset)
		resp.Result = &keydpb.Response_AdoptKeyset{AdoptKeyset: r}
	case *keydpb.Request_RotateCa:
		name = "rotate-ca"
		var r *keydpb.RotateCAResponse
		r, err = s.rotateCA(v.RotateCa)
		resp.Result = &keydpb.Response_RotateCa{RotateCa: r}
	case *keydpb.Request_Journalled:
		name = "journalled"
		var r *keydpb.JournalledResponse
		r, err = s.journalled(v.Journalled)
		resp.Result = &keydpb.Response_Journalled{Journalled: r}
	case *keydpb.Request_TakeExternal:
		name = "take-external"
		var r *keydpb.TakeExternalResponse
		r, err = s.takeExternal(v.TakeExternal)
		resp.Result = &keydpb.Response_TakeExternal{TakeExternal: r}
	case *keydpb.Request_SignPromotion:
		name = "sign-promotion"
		var r *keydpb.SignPromotionResponse
		r, err = s.signPromotion(ctx, v.SignPromotion)
		resp.Result = &keydpb.Response_SignPromotion{SignPromotion: r}
	case *keydpb.Request_SignWorkloads:
		name = "sign-workloads"
		var r *keydpb.SignWorkloadsResponse
		r, err = s.signWorkloads(v.SignWorkloads)
		resp.Result = &keydpb.Response_SignWorkloads{SignWorkloads: r}
	case *keydpb.Request_OpenAndSeal:
		name = "open-and-seal"
		var r *keydpb.OpenAndSealResponse
		r, err = s.openAndSeal(v.OpenAndSeal)
		resp.Result = &keydpb.Response_OpenAndSeal{OpenAndSeal: r}
	case *keydpb.Request_RewrapSecrets:
		name = "rewrap-secrets"
		var r *keydpb.RewrapSecretsResponse
		r, err = s.rewrapSecrets(v.RewrapSecrets)
		resp.Result = &keydpb.Response_RewrapSecrets{RewrapSecrets: r}
	case *keydpb.Request_DropMasters:
		name = "drop-masters"
		var r *keydpb.DropMastersResponse
		r, err = s.dropMasters(v.DropMasters)
		resp.Result = &keydpb.Response_DropMasters{DropMasters: r}
	case *keydpb.Request_SealBackup:
		name = "backup"
		var r *keydpb.SealBackupResponse
		r, err = s.sealBackup(v.SealBackup)
		resp.Result = &keydpb.Response_SealBackup{SealBackup: r}
	case *keydpb.Request_FinishRestore:
		name = "restore"
		var r *keydpb.FinishRestoreResponse
		r, err = s.finishRestore(ctx, v.FinishRestore, t.seeds)
		resp.Result = &keydpb.Response_FinishRestore{FinishRestore: r}
	case *keydpb.Request_RaiseIncarnation:
		name = "raise-incarnation"
		var r *keydpb.RaiseIncarnationResponse
		r, err = s.raiseIncarnation(v.RaiseIncarnation)
		resp.Result = &keydpb.Response_RaiseIncarnation{RaiseIncarnation: r}
	case *keydpb.Request_RotateDek:
		name = "rotate-dek"
		var r *keydpb.RotateDEKResponse
		r, err = s.rotateDEK(v.RotateDek)
		resp.Result = &keydpb.Response_RotateDek{RotateDek: r}
	case *keydpb.Request_DropDek:
		name = "drop-dek"
		var r *keydpb.DropDEKResponse
		r, err = s.dropDEK(v.DropDek)
		resp.Result = &keydpb.Response_DropDek{DropDek: r}
	case *keydpb.Request_SignCrl:
		name = "sign-crl"
		var r *keydpb.SignCRLResponse
		r, err = s.signCRL(v.SignCrl)
		resp.Result = &keydpb.Response_SignCrl{SignCrl: r}
	case *keydpb.Request_SignCheckpoint:
		name = "sign-checkpoint"
		var r *keydpb.SignCheckpointResponse
		r, err = s.signCheckpoint(v.SignCheckpoint)
		resp.Result = &keydpb.Response_SignCheckpoint{SignCheckpoint: r}
	case *keydpb.Request_SignReport:
		name = "sign-report"
		var r *keydpb.SignReportResponse
		r, err = s.signReport(v.SignReport)
		resp.Result = &keydpb.Response_SignReport{SignReport: r}
	case *keydpb.Request_ReadJournal:
		name = "read-journal"
		var r *keydpb.ReadJournalResponse
		r, err = s.readJournal(v.ReadJournal)
		resp.Result = &keydpb.Response_ReadJournal{ReadJournal: r}
	case *keydpb.Request_NoteRefused:
		name = "note-refused"
		var r *keydpb.NoteRefusedResponse
		r, err = s.noteRefused(v.NoteRefused)
		resp.Result = &keydpb.Response_NoteRefused{NoteRefused: r}
	case *keydpb.Request_LockSession:
		name = "lock-session"
		var r *keydpb.LockSessionResponse
		r, err = s.lockSession()
		resp.Result = &keydpb.Response_LockSession{LockSession: r}
	case *keydpb.Request_TakeShare:
		name = "take-share"
		var r *keydpb.TakeShareResponse
		r, err = s.takeSealed(v.TakeShare)
		resp.Result = &keydpb.Response_TakeShare{TakeShare: r}
	case *keydpb.Request_Release:
		name = "release"
		var r *keydpb.ReleaseResponse
		r, err = s.release(v.Release)
		resp.Result = &keydpb.Response_Release{Release: r}
	case *keydpb.Request_TakeRelease:
		name = "take-release"
		err = s.takeRelease(v.TakeRelease)
		resp.Result = &keydpb.Response_TakeRelease{TakeRelease: &keydpb.TakeReleaseResponse{}}
	case *keydpb.Request_Challenge:
		name = "challenge"
		var r *keydpb.ChallengeResponse
		r, err = s.challenge(v.Challenge)
		resp.Result = &keydpb.Response_Challenge{Challenge: r}
	case *keydpb.Request_MintInvitation:
		name = "mint-invitation"
		var r *keydpb.MintInvitationResponse
		r, err = s.mintInvitation(v.MintInvitation)
		resp.Result = &keydpb.Response_MintInvitation{MintInvitation: r}
	case *keydpb.Request_SignPerson:
		name = "sign-person"
		var r *keydpb.SignPersonResponse
		r, err = s.signPerson(ctx, v.SignPerson)
		resp.Result = &keydpb.Response_SignPerson{SignPerson: r}
	case *keydpb.Request_Forget:
		name = "forget"
		err = s.forget()
		resp.Result = &keydpb.Response_Forget{Forget: &keydpb.ForgetResponse{}}
	default:
		err = invalid("the request names no verb that keyd knows")
	}
	return name, resp, err
}

// unlockVerb answers root: status, and what takes an operator key.
func (s *Server) unlockVerb(ctx context.Context, req *keydpb.Request) (*keydpb.Response, error) {
	switch v := req.GetVerb().(type) {
	case *keydpb.Request_Status:
		st, err := s.status()
		return &keydpb.Response{Result: &keydpb.Response_Status{Status: st}}, err
	case *keydpb.Request_Unlock:
		s.mu.Lock()
		defer s.mu.Unlock()
		r, err := s.unlock(v.Unlock.GetSeed())
		return &keydpb.Response{Result: &keydpb.Response_Unlock{Unlock: r}}, err
	case *keydpb.Request_OpenBackup:
		s.mu.Lock()
		defer s.mu.Unlock()
		r, err := s.openBackup(v.OpenBackup)
		return &keydpb.Response{Result: &keydpb.Response_OpenBackup{OpenBackup: r}}, err
	case *keydpb.Request_AuthorizeRecovery:
		s.mu.Lock()
		defer s.mu.Unlock()
		err := s.authorizeRecovery(v.AuthorizeRecovery)
		return &keydpb.Response{Result: &keydpb.Response_AuthorizeRecovery{AuthorizeRecovery: &keydpb.AuthorizeRecoveryResponse{}}}, err
	case *keydpb.Request_GiveShare:
		s.mu.Lock()
		defer s.mu.Unlock()
		r, err := s.giveShare(v.GiveShare)
		return &keydpb.Response{Result: &keydpb.Response_GiveShare{GiveShare: r}}, err
	case *keydpb.Request_DropShares:
		s.mu.Lock()
		defer s.mu.Unlock()
		return &keydpb.Response{Result: &keydpb.Response_DropShares{DropShares: &keydpb.DropSharesResponse{Dropped: s.shares.drop()}}}, nil
	case *keydpb.Request_TestSlot:
		r, err := s.testSlot(ctx, v.TestSlot)
		return &keydpb.Response{Result: &keydpb.Response_TestSlot{TestSlot: r}}, err
	default:
		return nil, denied("this socket unlocks and tells the status, nothing else")
	}
}
