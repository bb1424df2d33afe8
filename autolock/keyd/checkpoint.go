package keyd

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/internal/lp"
)

// What keyd signed last of the audit log stands in a file: magic and format,
// incarnation u64, size u64, root, HMAC-SHA256 under a key from the journal's. It is
// replaced before the signature is given away, so nothing was signed that is not
// there. Without the file keyd begins anew, and the journal says so.
const (
	checkpointName  = "checkpoint"
	checkpointMagic = "RDTP\x01"
	checkpointLen   = len(checkpointMagic) + 8 + 8 + tlog.HashSize + sha256.Size

	checkpointMACLabel = "redoubt keyd checkpoint v1\x00"
	clusterSignLabel   = "redoubt audit checkpoint v1\x00"
	managerSignLabel   = "redoubt audit cosignature v1\x00"
)

var errCheckpointDamaged = refuse(keydpb.Code_CODE_DAMAGED,
	"what keyd signed last of the audit log is damaged, so it signs no more of it: restore keyd's directory from a copy of this manager's, or run `redoubt leave --force` and join again")

// signCheckpoint signs the root of a log that begins with the one it signed last.
// In another incarnation of the cluster another log begins, as a restored one has
// not what came after its backup.
func (s *Server) signCheckpoint(req *keydpb.SignCheckpointRequest) (*keydpb.SignCheckpointResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	next := checkpoint.Checkpoint{Cluster: opened.keyset.clusterID, Incarnation: opened.incarnation, Size: req.GetSize()}
	if req.GetSize() == 0 || int64(req.GetSize()) < 0 || len(req.GetRoot()) != tlog.HashSize || len(req.GetProof()) > maxLogProof {
		return nil, invalid("a checkpoint has the number of records and the root of their tree")
	}
	copy(next.Root[:], req.GetRoot())
	now := time.Now()
	if err := s.checkpoints.check(checkpointRate, now); err != nil {
		return nil, err
	}
	last, err := s.lastCheckpoint(opened)
	if err != nil {
		return nil, err
	}
	anew := last.Incarnation < opened.incarnation
	if anew {
		last.Size = 0
	}
	switch {
	case last.Incarnation > opened.incarnation:
		return nil, errCheckpointDamaged
	case req.GetBefore() != last.Size:
		return &keydpb.SignCheckpointResponse{Last: last.Size, Incarnation: opened.incarnation}, nil
	case req.GetSize() < last.Size:
		return nil, refuse(keydpb.Code_CODE_STALE_EPOCH, "%d records of the audit log were signed before, and now there are %d", last.Size, req.GetSize())
	case !anew:
		if err := follows(last, next, req.GetProof()); err != nil {
			return nil, err
		}
	case len(req.GetProof()) > 0:
		return nil, invalid("there is nothing before the first checkpoint")
	}
	if anew {
		if err := s.note(entry{Event: "sign-checkpoint", Outcome: "first", Detail: fmt.Sprintf("incarnation %d, %d records, root %s", next.Incarnation, next.Size, hex.EncodeToString(next.Root[:]))}); err != nil {
			return nil, err
		}
	}
	resp, err := opened.signCheckpoint(next, s.file.state.GetNodeId(), now)
	if err != nil {
		return nil, err
	}
	if next != last {
		if err := s.keepCheckpoint(opened, next); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

// follows refuses a log that does not begin with the one that was signed last.
func follows(last, next checkpoint.Checkpoint, proof [][]byte) error {
	var p tlog.TreeProof
	for _, h := range proof {
		if len(h) != tlog.HashSize {
			return invalid("a hash of the proof has %d bytes", len(h))
		}
		p = append(p, tlog.Hash(h))
	}
	if tlog.CheckTree(p, int64(next.Size), next.Root, int64(last.Size), last.Root) != nil {
		return denied("the audit log of %d records does not begin with the one of %d that was signed before: it was changed", next.Size, last.Size)
	}
	return nil
}

// signCheckpoint makes both signatures.
func (s *secrets) signCheckpoint(c checkpoint.Checkpoint, nodeID string, now time.Time) (*keydpb.SignCheckpointResponse, error) {
	text := c.Text()
	resp := &keydpb.SignCheckpointResponse{Incarnation: c.Incarnation, At: now.Unix()}
	var err error
	if resp.Key, resp.Signature, err = signDerived(s.keyset.audit, lp.Append([]byte(clusterSignLabel), []byte(c.Cluster)), text); err != nil {
		return nil, err
	}
	info := lp.Append(lp.Append([]byte(managerSignLabel), []byte(c.Cluster)), []byte(nodeID))
	resp.OwnKey, resp.Cosignature, err = signDerived(s.local.keydSeed, info, checkpoint.CosignText(text, resp.At))
	return resp, err
}

// signDerived signs with the Ed25519 key whose seed comes from a secret for that
// purpose alone.
func signDerived(secret, info, message []byte) (public, sig []byte, err error) {
	seed, err := hkdf.Key(sha256.New, secret, nil, string(info), ed25519.SeedSize)
	if err != nil {
		return nil, nil, err
	}
	defer clear(seed)
	private := ed25519.NewKeyFromSeed(seed)
	defer clear(private)
	return append([]byte(nil), private[ed25519.SeedSize:]...), ed25519.Sign(private, message), nil
}

// lastCheckpoint is what was signed last; of incarnation 0 where nothing was.
func (s *Server) lastCheckpoint(opened *secrets) (last checkpoint.Checkpoint, err error) {
	raw, err := atomicfile.ReadBounded(s.path(checkpointName), int64(checkpointLen))
	if errors.Is(err, fs.ErrNotExist) {
		return last, nil
	}
	if err != nil || len(raw) != checkpointLen || string(raw[:len(checkpointMagic)]) != checkpointMagic {
		return last, errCheckpointDamaged
	}
	body := raw[:checkpointLen-sha256.Size]
	mac, err := s.checkpointMAC(opened, body)
	if err != nil {
		return last, err
	}
	if !hmac.Equal(mac, raw[len(body):]) {
		return last, errCheckpointDamaged
	}
	body = body[len(checkpointMagic):]
	last = checkpoint.Checkpoint{Cluster: opened.keyset.clusterID, Incarnation: binary.BigEndian.Uint64(body), Size: binary.BigEndian.Uint64(body[8:])}
	copy(last.Root[:], body[16:])
	return last, nil
}

func (s *Server) keepCheckpoint(opened *secrets, c checkpoint.Checkpoint) error {
	raw := binary.BigEndian.AppendUint64([]byte(checkpointMagic), c.Incarnation)
	raw = append(binary.BigEndian.AppendUint64(raw, c.Size), c.Root[:]...)
	mac, err := s.checkpointMAC(opened, raw)
	if err != nil {
		return err
	}
	if err := s.write(s.path(checkpointName), append(raw, mac...)); err != nil {
		return fmt.Errorf("keyd: writing what was signed of the audit log: %w", err)
	}
	return nil
}

func (s *Server) checkpointMAC(opened *secrets, body []byte) ([]byte, error) {
	info := lp.Append(lp.Append([]byte(checkpointMACLabel), []byte(opened.keyset.clusterID)), []byte(s.file.state.GetNodeId()))
	key, err := hkdf.Key(sha256.New, opened.local.journal, nil, string(info), sha256.Size)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	h := hmac.New(sha256.New, key)
	h.Write(body)
	return h.Sum(nil), nil
}

// dropCheckpoint removes what was signed by a manager that is none any more.
func (s *Server) dropCheckpoint() error {
	if s.file != nil {
		return nil
	}
	if err := atomicfile.Remove(s.path(checkpointName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
