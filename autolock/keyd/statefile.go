package keyd

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/statepb"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/internal/strictpb"
)

// The state file: magic and format, length u32, statepb.State, HMAC-SHA256 of
// all that under a key from the KEK, SHA-256 of all that. The digest finds
// damage while keyd is locked; the MAC finds what somebody changed on purpose,
// as soon as the KEK is there.
const (
	stateName  = "state"
	stateMagic = "RDTK\x01"
	stateLabel = "redoubt keyd state v1"
)

// Errors of a state file. None of them is ever taken for a wrong key.
var (
	errStateDamaged = refuse(keydpb.Code_CODE_DAMAGED,
		"keyd's state file is damaged: restore it from a copy of this manager's directory, or run `redoubt leave --force` and join again")
	errStateNewer = refuse(keydpb.Code_CODE_DAMAGED,
		"keyd's state file was written by a newer version of Redoubt: install that version again")
)

// stateFile is a state file that was read: what it says, and what its MAC covers.
type stateFile struct {
	state *statepb.State
	mac   [sha256.Size]byte
	body  []byte
}

func encodeState(st *statepb.State, kek []byte) ([]byte, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(st)
	if err != nil {
		return nil, err
	}
	out := lp.Append([]byte(stateMagic), body)
	mac, err := stateMAC(kek, out)
	if err != nil {
		return nil, err
	}
	out = append(out, mac...)
	sum := sha256.Sum256(out)
	return append(out, sum[:]...), nil
}

func decodeState(raw []byte) (*stateFile, error) {
	const format = len(stateMagic) - 1 // where the magic has its format number
	if len(raw) < len(stateMagic)+4+2*sha256.Size || string(raw[:format]) != stateMagic[:format] {
		return nil, errStateDamaged
	}
	covered := raw[:len(raw)-sha256.Size]
	if sum := sha256.Sum256(covered); !bytes.Equal(sum[:], raw[len(covered):]) {
		return nil, errStateDamaged
	}
	if raw[format] != stateMagic[format] {
		return nil, errStateNewer
	}
	f := &stateFile{body: covered[:len(covered)-sha256.Size]}
	copy(f.mac[:], covered[len(f.body):])
	body := f.body[len(stateMagic)+4:]
	if int(binary.BigEndian.Uint32(f.body[len(stateMagic):])) != len(body) {
		return nil, errStateDamaged
	}
	f.state = new(statepb.State)
	if err := proto.Unmarshal(body, f.state); err != nil {
		return nil, errStateDamaged
	}
	return f, f.check()
}

// check returns an error unless the state is one that keyd writes.
func (f *stateFile) check() error {
	st := f.state
	switch {
	case strictpb.Unknown(st) != "":
		return errStateNewer // the digest is right, so somebody wrote them
	case slices.ContainsFunc(st.GetRootPins(), func(p []byte) bool { return len(p) != sha256.Size }):
		return errStateDamaged
	case !ident.Valid(st.GetClusterId()), !ident.Valid(st.GetNodeId()),
		autolock.CheckSlotSet(st.GetSlots()) != nil,
		len(st.GetKeks()) != len(st.GetSlots().GetSlots()):
		return errStateDamaged
	}
	for i, slot := range st.GetSlots().GetSlots() {
		k := st.GetKeks()[i]
		if k.GetSlotId() != slot.GetId() || !autolock.OwnSeed(slot) && (len(k.GetRecipient()) > 0 || len(k.GetSealedSeed()) > 0) ||
			len(k.GetSealed()) == 0 && (!autolock.OwnSeed(slot) || len(k.GetRecipient()) > 0) {
			return errStateDamaged
		}
	}
	return nil
}

// authentic reports whether the MAC is by this KEK.
func (f *stateFile) authentic(kek []byte) bool {
	mac, err := stateMAC(kek, f.body)
	return err == nil && hmac.Equal(mac, f.mac[:])
}

func stateMAC(kek, body []byte) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, kek, nil, stateLabel, sha256.Size)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	h := hmac.New(sha256.New, key)
	h.Write(body)
	return h.Sum(nil), nil
}

// readState returns nil when there is no state file.
func readState(dir string) (*stateFile, error) {
	raw, err := atomicfile.ReadBounded(filepath.Join(dir, stateName), maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("keyd: reading the state: %w", err)
	}
	return decodeState(raw)
}

// removeLeftovers deletes what a crash in the middle of a write left behind.
func removeLeftovers(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, ".*.tmp-*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}
